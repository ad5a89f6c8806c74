//! Login: passwords, session cookies, and the tickets that bind a form to a browser.

pub mod cookies;
pub mod password;
pub mod ticket;
