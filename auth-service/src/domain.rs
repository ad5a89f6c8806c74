//! Pure types and rules. This module does not read any clock, socket or file.
//!
//! A type with its own grammar can only be built by its parser, so other code does not validate it again.

pub mod account;
pub mod client;
pub mod client_id;
pub mod client_metadata;
pub mod client_use;
pub mod clock;
pub mod clock_watch;
pub mod consent;
pub mod device;
pub mod email;
pub mod error_code;
pub mod grant;
pub mod grant_id;
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
pub mod replaced_token;
pub mod resource;
pub mod resource_query;
pub mod scope;
pub mod visible;
