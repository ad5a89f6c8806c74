//! Who a person is: local accounts, passwords, login sessions, and the tickets that bind our forms to a browser.

pub mod cookies;
pub mod password;
pub mod ticket;
