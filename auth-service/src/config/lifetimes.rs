//! How long things live.

use std::time::Duration;

use serde::Deserialize;

use crate::keys::set::LONGEST_TOKEN;

use super::durations;
use super::{Environment, Problems};

/// Lifetimes.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// `ACCESS_TOKEN_TTL`, 1 h: access tokens (RFC 9068).
    pub access_token: Duration,
    /// `CODE_TTL`, 60 s: authorization codes (RFC 6749 §4.1.2 asks for at most 10 minutes).
    pub code: Duration,
    /// `REFRESH_TOKEN_TTL`, 90 d: a grant ends when it was not refreshed for so long.
    pub refresh_token: Duration,
    /// `REFRESH_GRACE`, 120 s: how long a used refresh token may be repeated while its successor is unused.
    pub refresh_grace: Duration,
    /// `LOGIN_SESSION_TTL`, 12 h: how long a browser stays logged in.
    pub login_session: Duration,
    /// How long a device code waits for a person (RFC 8628 §3.2).
    pub device_code: Duration,
    /// How long a pushed request waits for its browser, and for the login there (RFC 9126 §2.2).
    pub pushed_request: Duration,
    /// How long a form may stay open.
    pub form: Duration,
}

#[derive(Default, Deserialize)]
struct Raw {
    access_token_ttl: Option<String>,
    code_ttl: Option<String>,
    refresh_token_ttl: Option<String>,
    refresh_grace: Option<String>,
    login_session_ttl: Option<String>,
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

pub(super) fn read(environment: &Environment, problems: &mut Problems) -> Lifetimes {
    let raw: Raw = environment.concern(problems);
    let seconds = Duration::from_secs;
    let mut read = |name, text, default, least, most| {
        durations::read(name, text, seconds(default), seconds(least), seconds(most), problems)
    };
    Lifetimes {
        access_token: read("ACCESS_TOKEN_TTL", raw.access_token_ttl, HOUR, 1, LONGEST_TOKEN.as_secs()),
        code: read("CODE_TTL", raw.code_ttl, MINUTE, 5, 10 * MINUTE),
        refresh_token: read("REFRESH_TOKEN_TTL", raw.refresh_token_ttl, 90 * DAY, MINUTE, 3650 * DAY),
        refresh_grace: read("REFRESH_GRACE", raw.refresh_grace, 2 * MINUTE, 0, HOUR),
        login_session: read("LOGIN_SESSION_TTL", raw.login_session_ttl, 12 * HOUR, MINUTE, 90 * DAY),
        device_code: seconds(10 * MINUTE),
        pushed_request: seconds(10 * MINUTE),
        form: seconds(15 * MINUTE),
    }
}
