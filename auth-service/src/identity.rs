//! Passwords, session cookies, and the form tokens that bind a form to a browser.

pub mod cookies;
pub mod form_token;
pub mod password;
