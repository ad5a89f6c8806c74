//! OAuth 2.1: one file an endpoint, and one a grant under `token`.

pub mod authorize;
pub mod consent;
pub mod fallback;
pub mod login;
pub mod metadata;
pub mod protected_resource;
pub mod register;
pub mod revoke;
pub mod token;

mod client_assertion;
mod client_auth;
mod params;
mod proof;
mod responses;
