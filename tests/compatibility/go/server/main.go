// A server built with the Go SDK, written like the examples in the SDK's documentation. With -sessions-only, it supports
// only the revisions with sessions, like a server whose module has not been updated for a while.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

const stateless = "2026-07-28"

var sessionsOnly = flag.Bool("sessions-only", false, "support only the revisions with sessions")

func text(value string) *mcp.CallToolResult {
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: value}}}
}

func question(message string) *mcp.ElicitParams {
	return &mcp.ElicitParams{Message: message, RequestedSchema: &jsonschema.Schema{
		Type:       "object",
		Properties: map[string]*jsonschema.Schema{"confirm": {Type: "boolean"}},
		Required:   []string{"confirm"},
	}}
}

func prompt(message string) *mcp.CreateMessageParams {
	return &mcp.CreateMessageParams{MaxTokens: 60, Messages: []*mcp.SamplingMessage{
		{Role: "user", Content: &mcp.TextContent{Text: message}},
	}}
}

type none struct{}

type title struct {
	Title string `json:"title"`
}

type words struct {
	Text string `json:"text"`
}

type count struct {
	Words int `json:"words"`
}

type imports struct {
	Count int `json:"count"`
}

func readNote(_ context.Context, _ *mcp.CallToolRequest, in title) (*mcp.CallToolResult, any, error) {
	return text("text of " + in.Title), nil, nil
}

func deleteNote(_ context.Context, _ *mcp.CallToolRequest, in title) (*mcp.CallToolResult, any, error) {
	return text("deleted " + in.Title), nil, nil
}

func wordCount(_ context.Context, _ *mcp.CallToolRequest, in words) (*mcp.CallToolResult, count, error) {
	return nil, count{Words: len(strings.Fields(in.Text))}, nil
}

func fail(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, any, error) {
	return nil, nil, errors.New("the disk is full")
}

func said(temporary, everything string) *mcp.CallToolResult {
	return text(fmt.Sprintf("temporary=%s ALL=%s", temporary, everything))
}

// clean asks two questions, one after another. It asks over the session if there is one, and otherwise in its
// results.
func clean(ctx context.Context, req *mcp.CallToolRequest, _ none) (*mcp.CallToolResult, any, error) {
	if req.ProtocolVersion() < stateless {
		temporary, err := req.Session.Elicit(ctx, question("Delete 1 temporary file?"))
		if err != nil {
			return nil, nil, err
		}
		everything, err := req.Session.Elicit(ctx, question("Delete ALL 10000 files?"))
		if err != nil {
			return nil, nil, err
		}
		return said(temporary.Action, everything.Action), nil, nil
	}
	if temporary, ok := req.Params.InputResponses["temporary"].(*mcp.ElicitResult); ok {
		return &mcp.CallToolResult{
			InputRequests: mcp.InputRequestMap{"everything": question("Delete ALL 10000 files?")},
			RequestState:  temporary.Action,
		}, nil, nil
	}
	if everything, ok := req.Params.InputResponses["everything"].(*mcp.ElicitResult); ok {
		return said(req.Params.RequestState, everything.Action), nil, nil
	}
	return &mcp.CallToolResult{InputRequests: mcp.InputRequestMap{"temporary": question("Delete 1 temporary file?")}}, nil, nil
}

func cleanAtOnce(_ context.Context, req *mcp.CallToolRequest, _ none) (*mcp.CallToolResult, any, error) {
	if len(req.Params.InputResponses) == 0 {
		return &mcp.CallToolResult{InputRequests: mcp.InputRequestMap{
			"temporary":  question("Delete 1 temporary file?"),
			"everything": question("Delete ALL 10000 files?"),
		}}, nil, nil
	}
	temporary := req.Params.InputResponses["temporary"].(*mcp.ElicitResult)
	everything := req.Params.InputResponses["everything"].(*mcp.ElicitResult)
	return said(temporary.Action, everything.Action), nil, nil
}

func textOf(content mcp.Content) string {
	if block, ok := content.(*mcp.TextContent); ok {
		return block.Text
	}
	return ""
}

func summarize(ctx context.Context, req *mcp.CallToolRequest, _ none) (*mcp.CallToolResult, any, error) {
	if req.ProtocolVersion() < stateless {
		first, err := req.Session.CreateMessage(ctx, prompt("Summarize note A"))
		if err != nil {
			return nil, nil, err
		}
		second, err := req.Session.CreateMessage(ctx, prompt("Summarize note B"))
		if err != nil {
			return nil, nil, err
		}
		return text(textOf(first.Content) + " | " + textOf(second.Content)), nil, nil
	}
	if first, ok := req.Params.InputResponses["first"].(*mcp.CreateMessageWithToolsResult); ok {
		return &mcp.CallToolResult{
			InputRequests: mcp.InputRequestMap{"second": prompt("Summarize note B")},
			RequestState:  textOf(first.Content[0]),
		}, nil, nil
	}
	if second, ok := req.Params.InputResponses["second"].(*mcp.CreateMessageWithToolsResult); ok {
		return text(req.Params.RequestState + " | " + textOf(second.Content[0])), nil, nil
	}
	return &mcp.CallToolResult{InputRequests: mcp.InputRequestMap{"first": prompt("Summarize note A")}}, nil, nil
}

func folders(_ context.Context, req *mcp.CallToolRequest, _ none) (*mcp.CallToolResult, any, error) {
	if len(req.Params.InputResponses) == 0 {
		return &mcp.CallToolResult{InputRequests: mcp.InputRequestMap{"roots": &mcp.ListRootsParams{}}}, nil, nil
	}
	var uris []string
	for _, root := range req.Params.InputResponses["roots"].(*mcp.ListRootsResult).Roots {
		uris = append(uris, root.URI)
	}
	return text(strings.Join(uris, " ")), nil, nil
}

func importNotes(ctx context.Context, req *mcp.CallToolRequest, in imports) (*mcp.CallToolResult, any, error) {
	_ = req.Session.Log(ctx, &mcp.LoggingMessageParams{Level: "info", Data: fmt.Sprintf("importing %d notes", in.Count)})
	if token := req.Params.GetProgressToken(); token != nil {
		for done := 1; done <= in.Count; done++ {
			progress := &mcp.ProgressNotificationParams{ProgressToken: token, Progress: float64(done), Total: float64(in.Count)}
			if err := req.Session.NotifyProgress(ctx, progress); err != nil {
				return nil, nil, err
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return text(fmt.Sprintf("imported %d", in.Count)), nil, nil
}

func wait(ctx context.Context, _ *mcp.CallToolRequest, _ none) (*mcp.CallToolResult, any, error) {
	select {
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	case <-time.After(time.Minute):
		return text("done"), nil, nil
	}
}

func contents(uri, value string) *mcp.ReadResourceResult {
	return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: uri, MIMEType: "text/plain", Text: value}}}
}

func complete(_ context.Context, req *mcp.CompleteRequest) (*mcp.CompleteResult, error) {
	var values []string
	for _, language := range []string{"go", "python", "rust"} {
		if strings.HasPrefix(language, req.Params.Argument.Value) {
			values = append(values, language)
		}
	}
	return &mcp.CompleteResult{Completion: mcp.CompletionResultDetails{Values: values, Total: len(values)}}, nil
}

func main() {
	flag.Parse()
	options := &mcp.ServerOptions{
		CompletionHandler:  complete,
		SubscribeHandler:   func(context.Context, *mcp.SubscribeRequest) error { return nil },
		UnsubscribeHandler: func(context.Context, *mcp.UnsubscribeRequest) error { return nil },
	}
	if *sessionsOnly {
		options.SupportedProtocolVersions = []string{"2025-11-25", "2025-06-18"}
	}
	server := mcp.NewServer(&mcp.Implementation{Name: "notes", Version: "v1.0.0"}, options)
	mcp.AddTool(server, &mcp.Tool{Name: "read_note", Description: "Reads a note."}, readNote)
	mcp.AddTool(server, &mcp.Tool{Name: "delete_note", Description: "Deletes a note."}, deleteNote)
	mcp.AddTool(server, &mcp.Tool{Name: "word_count", Description: "Counts the words of a text."}, wordCount)
	mcp.AddTool(server, &mcp.Tool{Name: "fail", Description: "Never works."}, fail)
	mcp.AddTool(server, &mcp.Tool{Name: "clean", Description: "Removes temporary files, and all files if the user agrees."}, clean)
	mcp.AddTool(server, &mcp.Tool{Name: "clean_at_once", Description: "The same, with both questions at once."}, cleanAtOnce)
	mcp.AddTool(server, &mcp.Tool{Name: "summarize", Description: "Summarizes two notes."}, summarize)
	mcp.AddTool(server, &mcp.Tool{Name: "folders", Description: "The folders that the client shares."}, folders)
	mcp.AddTool(server, &mcp.Tool{Name: "import_notes", Description: "Imports notes and reports progress."}, importNotes)
	mcp.AddTool(server, &mcp.Tool{Name: "wait", Description: "Takes a minute."}, wait)
	touch := func(ctx context.Context, _ *mcp.CallToolRequest, _ none) (*mcp.CallToolResult, any, error) {
		err := server.ResourceUpdated(ctx, &mcp.ResourceUpdatedNotificationParams{URI: "notes://list"})
		return text("touched"), nil, err
	}
	mcp.AddTool(server, &mcp.Tool{Name: "touch_note", Description: "Changes the list of notes."}, touch)
	server.AddResource(&mcp.Resource{URI: "notes://list", Name: "list"},
		func(_ context.Context, req *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
			return contents(req.Params.URI, "A, B"), nil
		})
	server.AddResourceTemplate(&mcp.ResourceTemplate{URITemplate: "notes://note/{title}", Name: "note"},
		func(_ context.Context, req *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
			return contents(req.Params.URI, "text of "+strings.TrimPrefix(req.Params.URI, "notes://note/")), nil
		})
	server.AddPrompt(&mcp.Prompt{Name: "review", Description: "Asks for a review.", Arguments: []*mcp.PromptArgument{
		{Name: "language", Required: true},
	}}, func(_ context.Context, req *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		review := "Review this " + req.Params.Arguments["language"] + " code."
		return &mcp.GetPromptResult{Messages: []*mcp.PromptMessage{
			{Role: "user", Content: &mcp.TextContent{Text: review}},
		}}, nil
	})
	if err := server.Run(context.Background(), &mcp.StdioTransport{}); err != nil {
		log.Fatal(err)
	}
}
