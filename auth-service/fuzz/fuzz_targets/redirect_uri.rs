//! Fuzzes the parser of redirect URIs, through `auth_service::oauth::fuzzing`.
#![no_main]

use auth_service::oauth::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::redirect_uri(bytes));
