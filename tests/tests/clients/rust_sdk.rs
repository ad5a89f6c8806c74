//! The Rust SDK, `rmcp` with its OAuth client, which runs inside the test.

use anyhow::{Context as _, Result, ensure};
use rmcp::ServiceExt as _;
use rmcp::model::CallToolRequestParams;
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::auth::{AuthClient, AuthorizationRequest, OAuthState};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde_json::json;
use tests::Stack;
use tests::browser::{Person, authorize};
use tests::setup::ACCOUNT;
use url::Url;

pub(crate) const NAME: &str = "Rust SDK";

/// The redirect URI of this run on loopback. Like real clients, each run uses a different port.
pub(crate) fn redirect_uri(port: u16) -> String {
    format!("http://127.0.0.1:{port}/callback")
}

/// A client without stored data, together with the URL for the user's browser.
pub(crate) struct Asking {
    state: OAuthState,
    url: Url,
    redirect_uri: String,
}

impl Asking {
    /// Discovers the server, and registers or uses the metadata document, as the SDK does.
    pub(crate) async fn begin(stack: &Stack, port: u16, document: Option<&str>) -> Result<Self> {
        let redirect_uri = redirect_uri(port);
        let mut request = AuthorizationRequest::new(&redirect_uri).with_client_name(NAME);
        if let Some(url) = document {
            request = request.with_client_metadata_url(url);
        }
        let mut state = OAuthState::new(stack.mcp_url.as_str(), None).await?;
        state.start_authorization(request).await?;
        let url = Url::parse(&state.get_authorization_url().await?)?;
        Ok(Self { state, url, redirect_uri })
    }

    /// The `client_id` in the authorization URL.
    pub(crate) fn client_id(&self) -> Result<String> {
        let found = self.url.query_pairs().find(|(name, _)| name == "client_id");
        found.map(|(_, value)| value.into_owned()).with_context(|| format!("no client_id in {}", self.url))
    }

    /// Logs in and allows the request, then opens a session and calls `echo`.
    pub(crate) async fn finish_and_call(mut self, stack: &Stack) -> Result<()> {
        let person = Person::new(ACCOUNT.0, ACCOUNT.1);
        let callback = authorize(self.url, &self.redirect_uri, &person).await?;
        self.state.handle_callback_url(callback.as_str()).await?;
        let manager = self.state.into_authorization_manager().context("the SDK is not authorized")?;
        let transport = StreamableHttpClientTransport::with_client(
            AuthClient::new(reqwest::Client::new(), manager),
            StreamableHttpClientTransportConfig::with_uri(stack.mcp_url.as_str()),
        );
        let client = ().serve(transport).await?;
        let arguments = json!({ "message": "hello" }).as_object().cloned().unwrap_or_default();
        let result = client.call_tool(CallToolRequestParams::new("echo").with_arguments(arguments)).await?;
        let text = result.content.first().and_then(|block| block.as_text()).map(|text| text.text.as_str());
        ensure!(text == Some("Echo: hello"), "the call returned {result:?}");
        client.cancel().await?;
        Ok(())
    }
}
