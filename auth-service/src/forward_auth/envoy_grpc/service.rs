//! The gRPC service that Envoy calls. It verifies that the call comes from a trusted edge proxy, and then decides
//! as for any other proxy.

use std::sync::Arc;

use actix_web::web::Data;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::Authorization;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use crate::forward_auth::answer::Answer;
use crate::forward_auth::refused_check::RefusedCheck;
use crate::forward_auth::{EDGE_SECRET, counted, decision, trust};
use crate::state::AppState;

use super::peer::Peer;

/// The implementation of the gRPC service `envoy.service.auth.v3.Authorization`, which Envoy calls before it
/// forwards a request.
pub struct Authorizer {
    state: Arc<AppState>,
}

impl Authorizer {
    /// Creates the service. It shares the state with the other listeners.
    pub fn new(state: &Data<AppState>) -> Self {
        Self { state: Data::clone(state).into_inner() }
    }
}

#[tonic::async_trait]
impl Authorization for Authorizer {
    /// Returns an HTTP response for the client in all cases, because after an RPC error the client would receive
    /// no explanation.
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.address);
        let metadata = request.metadata();
        let secrets = metadata.get_all(EDGE_SECRET.as_str()).iter().map(MetadataValue::as_encoded_bytes);
        let trusted = trust(peer, secrets, &self.state);
        let check = request.get_ref();
        let headers = trusted.and_then(|()| super::headers(check));
        let answer = match headers.as_ref().map(|headers| super::parse(check, headers)) {
            Ok(Ok(asked)) => decision(&asked, &self.state).await,
            Ok(Err(error)) => Answer::refuse(&error),
            Err(error) => Answer::refuse(error),
        };
        let host = super::http(check).ok().map(|http| http.host.as_bytes());
        RefusedCheck { peer, host }.log(&answer);
        Ok(Response::new(super::respond(counted(answer, &self.state), check)))
    }
}
