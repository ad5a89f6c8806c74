//! auth-service over real sockets, with a clock that the test turns.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod it {
    mod app;
    mod authorize;
    mod check;
    mod discovery;
    mod login;
    mod register;
    mod token;
}
