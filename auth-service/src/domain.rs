//! Pure types and rules. Nothing here reads a clock, a socket or a file.
//!
//! Each type with a grammar of its own is made by its parser only, so that nothing downstream checks again.

pub mod account;
pub mod client;
pub mod clock;
pub mod clock_watch;
pub mod consent;
pub mod device;
pub mod email;
pub mod error_code;
pub mod grant;
pub mod host;
pub mod issuer;
pub mod key_thumbprint;
pub mod opaque_token;
pub mod origin;
pub mod path;
pub mod pkce;
pub mod pushed_request;
pub mod redirect_uri;
pub mod refresh_token;
pub mod resource;
pub mod resource_query;
pub mod scope;
