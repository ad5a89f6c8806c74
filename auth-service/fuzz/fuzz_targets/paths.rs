//! Fuzzes the parser of paths. Every program must interpret an accepted path in the same way.
#![no_main]

use auth_service::domain::path::UnambiguousPath;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|target: &str| {
    let Ok(path) = UnambiguousPath::of_target(target) else { return };
    let again = UnambiguousPath::of_target(path.as_str()).expect("an accepted path is accepted again");
    assert_eq!(path.as_str(), again.as_str());
    assert!(path.is_within("/") && path.is_within(path.as_str()));
    assert!(path.as_str().is_ascii() && !path.as_str().contains(['\\', ';', '#', '?']));
});
