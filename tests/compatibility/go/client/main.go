// The Go SDK as a client. It signs in without stored tokens, steps up, and uses every feature of the server once.
// It reports each event as a line of JSON. The program that reads the lines visits the URLs in place of a user.
// With -sessions-only, it requests the newest revision with sessions, like earlier releases of the SDK.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
)

const (
	stateless = "2026-07-28"
	answered  = "temporary=accept ALL=decline"
)

var questions = []string{"Delete 1 temporary file?", "Delete ALL 10000 files?"}

var sessionsOnly = flag.Bool("sessions-only", false, "request the newest revision with sessions")

var output sync.Mutex

func report(event map[string]any) {
	output.Lock()
	defer output.Unlock()
	_ = json.NewEncoder(os.Stdout).Encode(event)
}

// user answers questions, and stores the notifications that the client has received.
type user struct {
	mu      sync.Mutex
	asked   []string
	logged  chan struct{}
	updated chan struct{}
}

func (u *user) elicit(_ context.Context, req *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked = append(u.asked, req.Params.Message)
	if strings.Contains(req.Params.Message, "ALL") {
		return &mcp.ElicitResult{Action: "decline"}, nil
	}
	content := map[string]any{}
	if schema, ok := req.Params.RequestedSchema.(map[string]any); ok {
		if fields, ok := schema["properties"].(map[string]any); ok {
			for field := range fields {
				content[field] = true
			}
		}
	}
	return &mcp.ElicitResult{Action: "accept", Content: content}, nil
}

func (u *user) takeAsked() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	asked := u.asked
	u.asked = nil
	return asked
}

func sample(_ context.Context, req *mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
	last := req.Params.Messages[len(req.Params.Messages)-1]
	block, ok := last.Content.(*mcp.TextContent)
	if !ok {
		return nil, errors.New("no text to summarize")
	}
	content := &mcp.TextContent{Text: "summary of " + block.Text}
	return &mcp.CreateMessageResult{Role: "assistant", Model: "m", Content: content}, nil
}

func tell(received chan struct{}) {
	select {
	case received <- struct{}{}:
	default:
	}
}

// authorization returns the SDK's handler with a listener on loopback, as in the SDK's example.
func authorization() (auth.OAuthHandler, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	redirect := "http://" + listener.Addr().String() + "/callback"
	results := make(chan *auth.AuthorizationResult)
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/callback" {
			return
		}
		query := req.URL.Query()
		results <- &auth.AuthorizationResult{Code: query.Get("code"), State: query.Get("state"), Iss: query.Get("iss")}
		fmt.Fprint(w, "Authentication successful. You can close this window.")
	}))
	return auth.NewAuthorizationCodeHandler(&auth.AuthorizationCodeHandlerConfig{
		RedirectURL: redirect,
		AuthorizationCodeFetcher: func(ctx context.Context, args *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
			visit, err := url.Parse(args.URL)
			if err != nil {
				return nil, err
			}
			report(map[string]any{"visit": args.URL, "redirect_uri": redirect, "scope": visit.Query().Get("scope")})
			select {
			case result := <-results:
				return result, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
		DynamicClientRegistrationConfig: &auth.DynamicClientRegistrationConfig{
			Metadata: &oauthex.ClientRegistrationMetadata{
				ClientName:              "Compatibility",
				RedirectURIs:            []string{redirect},
				TokenEndpointAuthMethod: "none",
			},
		},
	})
}

func is(found, expected any) error {
	if !reflect.DeepEqual(found, expected) {
		return fmt.Errorf("%v instead of %v", found, expected)
	}
	return nil
}

// checkTime is the time limit for one feature.
func checkTime() time.Duration {
	if seconds, err := time.ParseDuration(os.Getenv("CHECK_SECONDS") + "s"); err == nil {
		return seconds
	}
	return 40 * time.Second
}

type check struct {
	name string
	has  bool
	use  func(context.Context) error
}

// features returns every feature: its name, whether the server has it, and a function that uses it and checks the
// result.
func features(session *mcp.ClientSession, u *user) []check {
	able := session.InitializeResult().Capabilities
	isModern := session.InitializeResult().ProtocolVersion >= stateless
	text := func(ctx context.Context, name string, args map[string]any) (string, error) {
		params := &mcp.CallToolParams{Name: name}
		if args != nil {
			params.Arguments = args
		}
		result, err := session.CallTool(ctx, params)
		if err != nil {
			return "", err
		}
		block, ok := result.Content[0].(*mcp.TextContent)
		if !ok {
			return "", errors.New("no text")
		}
		return block.Text, nil
	}
	gives := func(ctx context.Context, name string, args map[string]any, expected string) error {
		found, err := text(ctx, name, args)
		if err != nil {
			return err
		}
		return is(found, expected)
	}
	call := func(ctx context.Context) error {
		return gives(ctx, "read_note", map[string]any{"title": "A"}, "text of A")
	}
	clean := func(ctx context.Context) error { return gives(ctx, "clean", nil, answered) }
	twice := slices.Concat(questions, questions)
	return []check{
		{"call", true, call},
		{"structured", true, func(ctx context.Context) error {
			result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "word_count", Arguments: map[string]any{"text": "one two"}})
			if err != nil {
				return err
			}
			return is(result.StructuredContent, map[string]any{"words": 2.0})
		}},
		{"error", true, func(ctx context.Context) error {
			result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "fail"})
			if err != nil {
				return err
			}
			block, ok := result.Content[0].(*mcp.TextContent)
			if !result.IsError || !ok || !strings.Contains(block.Text, "the disk is full") {
				return fmt.Errorf("%+v", result)
			}
			return nil
		}},
		{"questions", true, func(ctx context.Context) error {
			u.takeAsked()
			if err := clean(ctx); err != nil {
				return err
			}
			return is(u.takeAsked(), questions)
		}},
		{"questions again", true, func(ctx context.Context) error {
			u.takeAsked()
			if err := errors.Join(clean(ctx), clean(ctx)); err != nil {
				return err
			}
			return is(u.takeAsked(), twice)
		}},
		{"questions in parallel", true, func(ctx context.Context) error {
			u.takeAsked()
			ended := make(chan error)
			for range 2 {
				go func() { ended <- clean(ctx) }()
			}
			if err := errors.Join(<-ended, <-ended); err != nil {
				return err
			}
			return is(slices.Sorted(slices.Values(u.takeAsked())), slices.Sorted(slices.Values(twice)))
		}},
		{"questions at once", true, func(ctx context.Context) error {
			u.takeAsked()
			if err := gives(ctx, "clean_at_once", nil, answered); err != nil {
				return err
			}
			return is(slices.Sorted(slices.Values(u.takeAsked())), questions)
		}},
		{"sampling", true, func(ctx context.Context) error {
			return gives(ctx, "summarize", nil, "summary of Summarize note A | summary of Summarize note B")
		}},
		{"roots", true, func(ctx context.Context) error { return gives(ctx, "folders", nil, "file:///notes") }},
		{"progress", true, func(ctx context.Context) error { return progress(ctx, session) }},
		{"logging", able.Logging != nil, func(ctx context.Context) error {
			params := &mcp.CallToolParams{Name: "import_notes", Arguments: map[string]any{"count": 1}}
			if isModern {
				params.Meta = mcp.Meta{mcp.MetaKeyLogLevel: "info"}
			} else {
				// Some servers log without a request for a level, and do not support that request.
				_ = session.SetLoggingLevel(ctx, &mcp.SetLoggingLevelParams{Level: "info"})
			}
			if _, err := session.CallTool(ctx, params); err != nil {
				return err
			}
			return waitFor(ctx, u.logged)
		}},
		{"resources", true, func(ctx context.Context) error { return reads(ctx, session, "notes://list", "A, B") }},
		{"templates", true, func(ctx context.Context) error {
			list, err := session.ListResourceTemplates(ctx, nil)
			if err != nil {
				return err
			}
			if err := is(list.ResourceTemplates[0].URITemplate, "notes://note/{title}"); err != nil {
				return err
			}
			return reads(ctx, session, "notes://note/B", "text of B")
		}},
		{"subscription", able.Resources != nil && able.Resources.Subscribe, func(ctx context.Context) error {
			if err := session.Subscribe(ctx, &mcp.SubscribeParams{URI: "notes://list"}); err != nil {
				return err
			}
			// A server can confirm a subscription before it is in effect, so the note is changed repeatedly.
			for ctx.Err() == nil {
				if _, err := text(ctx, "touch_note", nil); err != nil {
					return err
				}
				limited, stop := context.WithTimeout(ctx, time.Second)
				err := waitFor(limited, u.updated)
				stop()
				if err == nil {
					return nil
				}
			}
			return errors.New("no notification arrived")
		}},
		{"prompts", true, func(ctx context.Context) error {
			prompt, err := session.GetPrompt(ctx, &mcp.GetPromptParams{Name: "review", Arguments: map[string]string{"language": "go"}})
			if err != nil {
				return err
			}
			return is(prompt.Messages[0].Content, &mcp.TextContent{Text: "Review this go code."})
		}},
		{"completion", able.Completions != nil, func(ctx context.Context) error {
			found, err := session.Complete(ctx, &mcp.CompleteParams{
				Ref:      &mcp.CompleteReference{Type: "ref/prompt", Name: "review"},
				Argument: mcp.CompleteParamsArgument{Name: "language", Value: "py"},
			})
			if err != nil {
				return err
			}
			return is(found.Completion.Values, []string{"python"})
		}},
		{"cancellation", true, func(ctx context.Context) error {
			short, stop := context.WithTimeout(ctx, 100*time.Millisecond)
			defer stop()
			if _, err := text(short, "wait", nil); err == nil {
				return errors.New("answered")
			}
			return call(ctx)
		}},
	}
}

func waitFor(ctx context.Context, received chan struct{}) error {
	select {
	case <-received:
		return nil
	case <-ctx.Done():
		return errors.New("no notification arrived")
	}
}

func reads(ctx context.Context, session *mcp.ClientSession, uri, expected string) error {
	result, err := session.ReadResource(ctx, &mcp.ReadResourceParams{URI: uri})
	if err != nil {
		return err
	}
	return is(result.Contents[0].Text, expected)
}

var progressed = make(chan float64, 16)

func progress(ctx context.Context, session *mcp.ClientSession) error {
	params := &mcp.CallToolParams{Name: "import_notes", Arguments: map[string]any{"count": 3}}
	params.SetProgressToken("imports")
	if _, err := session.CallTool(ctx, params); err != nil {
		return err
	}
	for _, expected := range []float64{1, 2, 3} {
		select {
		case done := <-progressed:
			if err := is(done, expected); err != nil {
				return err
			}
		case <-ctx.Done():
			return errors.New("not all progress notifications arrived")
		}
	}
	return nil
}

func run(ctx context.Context) error {
	u := &user{logged: make(chan struct{}, 1), updated: make(chan struct{}, 1)}
	client := mcp.NewClient(&mcp.Implementation{Name: "compatibility", Version: "v1.0.0"}, &mcp.ClientOptions{
		ElicitationHandler:   u.elicit,
		CreateMessageHandler: sample,
		LoggingMessageHandler: func(context.Context, *mcp.LoggingMessageRequest) {
			tell(u.logged)
		},
		ResourceUpdatedHandler: func(context.Context, *mcp.ResourceUpdatedNotificationRequest) {
			tell(u.updated)
		},
		ProgressNotificationHandler: func(_ context.Context, req *mcp.ProgressNotificationClientRequest) {
			progressed <- req.Params.Progress
		},
	})
	client.AddRoots(&mcp.Root{URI: "file:///notes", Name: "notes"})
	transport := &mcp.StreamableClientTransport{Endpoint: os.Getenv("MCP_URL")}
	signsIn := os.Getenv("SIGN_IN") != ""
	if signsIn {
		handler, err := authorization()
		if err != nil {
			return err
		}
		transport.OAuthHandler = handler
	}
	var options *mcp.ClientSessionOptions
	if *sessionsOnly {
		options = &mcp.ClientSessionOptions{ProtocolVersion: "2025-11-25"}
	}
	session, err := client.Connect(ctx, transport, options)
	if err != nil {
		return err
	}
	defer session.Close()
	if signsIn {
		report(map[string]any{"signed_in": true})
	}
	report(map[string]any{"revision": session.InitializeResult().ProtocolVersion})
	for _, feature := range features(session, u) {
		event := map[string]any{"check": feature.name, "verdict": "none"}
		if feature.has {
			limited, stop := context.WithTimeout(ctx, checkTime())
			event["verdict"] = "ok"
			if err := feature.use(limited); err != nil {
				event["verdict"], event["detail"] = "failed", err.Error()
			}
			stop()
		}
		report(event)
	}
	if signsIn {
		limited, stop := context.WithTimeout(ctx, time.Minute)
		defer stop()
		result, err := session.CallTool(limited, &mcp.CallToolParams{Name: "delete_note", Arguments: map[string]any{"title": "A"}})
		if err != nil {
			report(map[string]any{"stepped_up": false, "detail": err.Error()})
		} else {
			report(map[string]any{"stepped_up": is(result.Content[0], &mcp.TextContent{Text: "deleted A"}) == nil})
		}
	}
	report(map[string]any{"done": true})
	return nil
}

func main() {
	flag.Parse()
	if err := run(context.Background()); err != nil {
		report(map[string]any{"ended": err.Error()})
		os.Exit(1)
	}
}
