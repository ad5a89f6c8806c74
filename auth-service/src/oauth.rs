//! The OAuth 2.1 endpoints, one module for each. The grant types of the token endpoint are modules under `token`.

pub mod after_form;
pub mod authorize;
pub mod consent;
pub mod device;
pub mod device_authorization;
pub mod errors;
pub mod fallback;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod introspect;
pub mod login;
pub mod metadata;
pub mod protected_resource;
pub mod pushed_request;
pub mod register;
pub mod responses;
pub mod revoke;
pub mod token;

mod authorization;
mod authorization_error;
mod authorization_request;
mod client_assertion;
mod client_auth;
mod live_token;
mod login_attempt;
mod params;
mod prompt;
mod proof;
mod requested_scope;
mod session;
