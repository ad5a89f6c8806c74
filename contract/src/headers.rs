//! The names of the headers that describe the caller in the response to a check, for the service behind the
//! edge.

/// Identifier of the user, which never changes.
pub const SUBJECT: &str = "x-auth-subject";
/// Login name of the user.
pub const USERNAME: &str = "x-auth-username";
/// Email address of the user. It is empty if unknown.
pub const EMAIL: &str = "x-auth-email";
/// The groups that the user is in, separated by commas.
pub const GROUPS: &str = "x-auth-groups";
/// The client that sent the request.
pub const CLIENT_ID: &str = "x-auth-client-id";
/// The scope of the access token, separated by spaces.
pub const SCOPE: &str = "x-auth-scope";
/// The assertion, which contains the same information in signed form ([`crate::assertion`]).
pub const ASSERTION: &str = "x-auth-assertion";

/// All of these headers, in the order in which the response to a check contains them.
pub const ALL: [&str; 7] = [SUBJECT, USERNAME, EMAIL, GROUPS, CLIENT_ID, SCOPE, ASSERTION];
