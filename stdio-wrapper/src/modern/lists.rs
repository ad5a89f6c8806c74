//! Caches the results of list requests if the child's `ttlMs` and `cacheScope` allow it (2026-07-28,
//! "Caching").
//!
//! A cached result is used only if all of these are true:
//! - The request has exactly the same method and params, including `_meta`.
//! - The request comes from the same principal, unless the child declared the result public.
//! - The result is still fresh. Its `ttlMs` is replaced with the remaining time.
//! - No change was announced since the result was requested.
//!
//! The cache is dropped together with its child.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::check::Request;
use crate::protocol::{members, string};

/// Maximum length of the params of a request whose result is cached, in bytes.
const MAX_PARAMS: usize = 4096;
/// One result can use 1/`SHARE` of the cache.
const SHARE: usize = 8;

/// Maximum number of cached results, regardless of their size.
const MAX_KEPT: usize = 1024;

/// The list methods, each with the notification that announces a change to the list.
const LISTS: [(&str, &str); 4] = [
    ("tools/list", "notifications/tools/list_changed"),
    ("prompts/list", "notifications/prompts/list_changed"),
    ("resources/list", "notifications/resources/list_changed"),
    ("resources/templates/list", "notifications/resources/list_changed"),
];

/// The key of a cached result. Requests with equal keys get the same result.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    method: &'static str,
    /// The params exactly as the client wrote them.
    params: Box<str>,
    owner: Arc<str>,
}

impl Key {
    /// The key of a request for a list. Returns `None` if the result cannot be cached. Progress and log
    /// messages belong to one request only, and a result that depends on a client's responses must not be
    /// reused.
    pub(super) fn of(request: &Request<'_>, owner: &Arc<str>) -> Option<Self> {
        let (method, _) = LISTS.iter().find(|(method, _)| *method == request.method)?;
        let params = request.message.params_text().filter(|params| params.len() <= MAX_PARAMS)?;
        let is_plain = request.meta.progress_token.is_none() && request.meta.log_level.is_none();
        let is_first =
            members(params, ["inputResponses", "requestState"]).is_ok_and(|found| found == [None; 2]);
        (is_plain && is_first).then(|| Self { method, params: params.into(), owner: Arc::clone(owner) })
    }

    /// Whether the caller is known. Callers without a subject cannot be distinguished.
    fn is_somebodys(&self) -> bool {
        !self.owner.starts_with('\n')
    }

    fn anyones(&self) -> Self {
        Self { owner: Arc::from(""), ..self.clone() }
    }
}

/// The number of changes that have been announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(u64);

/// The cached results of one child.
#[derive(Debug)]
pub(super) struct Lists {
    /// Maximum size of the cache, in bytes. With 0, nothing is cached.
    max_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: HashMap<Key, Kept>,
    /// The number of bytes in use.
    used: usize,
    generation: u64,
    /// Whether results can be cached: either changes are announced to the wrapper, or the child never announces
    /// any.
    is_open: bool,
}

#[derive(Debug)]
struct Kept {
    /// The parts of the result before and after the value of `ttlMs`.
    before: Box<str>,
    after: Box<str>,
    until: Instant,
    size: usize,
}

impl State {
    fn drop_if(&mut self, is_gone: impl Fn(&Key, &Kept) -> bool) {
        self.kept.retain(|key, kept| !is_gone(key, kept));
        self.used = self.kept.values().map(|kept| kept.size).sum();
    }

    fn is_full(&self, size: usize, max_bytes: usize) -> bool {
        self.used + size > max_bytes || self.kept.len() >= MAX_KEPT
    }
}

impl Lists {
    /// Creates an empty cache. Nothing is cached before `open` is called.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, state: Mutex::default() }
    }

    /// Whether the cache is enabled.
    pub(super) fn is_on(&self) -> bool {
        self.max_bytes > 0
    }

    /// Allows results to be cached from now on.
    pub(super) fn open(&self) {
        self.set(true);
    }

    /// Stops caching, because changes would not be noticed.
    pub(super) fn close(&self) {
        self.set(false);
    }

    fn set(&self, is_open: bool) {
        let mut state = self.state();
        state.is_open = is_open;
        state.generation += 1;
        state.drop_if(|_, _| true);
    }

    /// Handles a notification from the child. If it announces a change to a list, the cached results of that
    /// list are removed.
    pub(super) fn changed(&self, notification: &str) {
        let is_about = |method: &str| LISTS.contains(&(method, notification));
        if LISTS.iter().any(|(_, known)| *known == notification) {
            let mut state = self.state();
            state.generation += 1;
            state.drop_if(|key, _| is_about(key.method));
        }
    }

    /// The current generation, which is recorded when a request is sent.
    pub(super) fn generation(&self) -> Generation {
        Generation(self.state().generation)
    }

    /// A result that is still fresh, as JSON text, with the remaining time as `ttlMs`.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<String> {
        let state = self.state();
        let fresh = |key: &Key| state.kept.get(key).filter(|kept| now < kept.until);
        let kept = fresh(key).or_else(|| fresh(&key.anyones()))?;
        let rest = kept.until.saturating_duration_since(now).as_millis();
        Some(format!("{}{rest}{}", kept.before, kept.after))
    }

    /// Caches a result (JSON text) if the child allows it and no change has been announced since it was
    /// requested.
    pub(super) fn keep(&self, key: &Key, asked: Generation, result: &str, now: Instant) {
        // A result that cannot be cached is not parsed.
        if result.len() > self.max_bytes / SHARE {
            return;
        }
        let Some((kept, is_public)) = read(result, now) else { return };
        let key = if is_public {
            key.anyones()
        } else if key.is_somebodys() {
            key.clone()
        } else {
            return;
        };
        let size = kept.size + key.params.len();
        let kept = Kept { size, ..kept };
        let mut state = self.state();
        if !state.is_open || state.generation != asked.0 || size > self.max_bytes / SHARE {
            return;
        }
        if state.is_full(size, self.max_bytes) {
            state.drop_if(|_, kept| kept.until <= now);
        }
        while state.is_full(size, self.max_bytes) {
            let next = state.kept.iter().min_by_key(|(_, kept)| kept.until).map(|(key, _)| key.clone());
            let Some(next) = next else { return };
            state.drop_if(|key, _| *key == next);
        }
        state.kept.insert(key, kept);
        state.drop_if(|_, _| false);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the caching members of a result. Returns `None` if it must not be cached, and otherwise whether it is
/// public.
fn read(result: &str, now: Instant) -> Option<(Kept, bool)> {
    let [kind, ttl, scope] = members(result, ["resultType", "ttlMs", "cacheScope"]).ok()?;
    if string(kind?)? != "complete" {
        return None;
    }
    let is_public = match string(scope?)?.as_ref() {
        "public" => true,
        "private" => false,
        _ => return None,
    };
    let ttl = ttl?;
    let until = now.checked_add(Duration::from_millis(ttl.parse().ok().filter(|ttl| *ttl > 0)?))?;
    let at = crate::protocol::span_in(result, ttl);
    let (before, after) = (result.get(..at.start)?.into(), result.get(at.end..)?.into());
    Some((Kept { before, after, until, size: result.len() }, is_public))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(owner: &str, params: &str) -> Key {
        Key { method: "tools/list", params: params.into(), owner: Arc::from(owner) }
    }

    fn lists() -> Lists {
        let lists = Lists::new(1 << 16);
        lists.open();
        lists
    }

    fn result(ttl: &str, scope: &str) -> String {
        format!(r#"{{"resultType":"complete","tools":[1.0],"ttlMs":{ttl},"cacheScope":"{scope}"}}"#)
    }

    #[test]
    fn what_is_fresh_is_given_again_with_the_rest_of_its_time() {
        let (lists, now) = (lists(), Instant::now());
        lists.keep(&key("ana", "{}"), lists.generation(), &result("1000", "private"), now);
        let later = now + Duration::from_millis(400);
        assert_eq!(lists.get(&key("ana", "{}"), later), Some(result("600", "private")));
        assert_eq!(lists.get(&key("ana", "{}"), now + Duration::from_secs(1)), None);
        assert_eq!(lists.get(&key("ana", r#"{"cursor":"2"}"#), later), None);
    }

    #[test]
    fn a105_what_is_private_is_its_principals_and_only_what_is_public_is_everybodys() {
        let (lists, now) = (lists(), Instant::now());
        lists.keep(&key("ana", "{}"), lists.generation(), &result("1000", "private"), now);
        assert_eq!(lists.get(&key("bob", "{}"), now), None);
        lists.keep(&key("ana", "{}"), lists.generation(), &result("1000", "public"), now);
        assert_eq!(lists.get(&key("bob", "{}"), now), Some(result("1000", "public")));
        // Two callers without an identity cannot be distinguished.
        let anybody = Key { method: "prompts/list", ..key("\n", "{}") };
        lists.keep(&anybody, lists.generation(), &result("1000", "private"), now);
        assert_eq!(lists.get(&anybody, now), None);
    }

    #[test]
    fn nothing_is_kept_that_the_child_does_not_clearly_allow() {
        let (lists, now) = (lists(), Instant::now());
        for text in [
            result("0", "public"),
            result("-5", "public"),
            result("1.5", "public"),
            result("1e3", "public"),
            result(r#""1000""#, "public"),
            result("99999999999999999999", "public"),
            result("1000", "shared"),
            result("1000", "public").replace("complete", "input_required"),
            r#"{"resultType":"complete","ttlMs":1000}"#.to_owned(),
            r#"{"ttlMs":1000,"cacheScope":"public"}"#.to_owned(),
            r#"{"resultType":"complete","ttlMs":1000,"ttlMs":5,"cacheScope":"public"}"#.to_owned(),
        ] {
            lists.keep(&key("ana", "{}"), lists.generation(), &text, now);
            assert_eq!(lists.get(&key("ana", "{}"), now), None, "{text}");
        }
    }

    #[test]
    fn a_change_drops_its_lists_and_what_was_asked_for_before_it() {
        let (lists, now) = (lists(), Instant::now());
        let prompts = Key { method: "prompts/list", ..key("ana", "{}") };
        let asked = lists.generation();
        lists.keep(&prompts, asked, &result("1000", "public"), now);
        lists.keep(&key("ana", "{}"), asked, &result("1000", "public"), now);
        lists.changed("notifications/message");
        assert!(lists.get(&key("ana", "{}"), now).is_some());
        lists.changed("notifications/tools/list_changed");
        assert_eq!(lists.get(&key("ana", "{}"), now), None);
        assert!(lists.get(&prompts, now).is_some());
        // The child might have created this result before the change.
        lists.keep(&key("ana", "{}"), asked, &result("1000", "public"), now);
        assert_eq!(lists.get(&key("ana", "{}"), now), None);
    }

    #[test]
    fn resource_changes_drop_templates_too() {
        let (lists, now) = (lists(), Instant::now());
        for method in ["resources/list", "resources/templates/list"] {
            let key = Key { method, ..key("ana", "{}") };
            lists.keep(&key, lists.generation(), &result("1000", "public"), now);
            assert!(lists.get(&key, now).is_some());
            lists.changed("notifications/resources/list_changed");
            assert_eq!(lists.get(&key, now), None, "{method}");
        }
    }

    #[test]
    fn nothing_is_kept_before_changes_are_heard_nor_after_they_no_longer_are() {
        let (lists, now) = (Lists::new(1 << 16), Instant::now());
        let ana = key("ana", "{}");
        lists.keep(&ana, lists.generation(), &result("1000", "public"), now);
        assert_eq!(lists.get(&ana, now), None);
        let asked = lists.generation();
        lists.open();
        lists.keep(&ana, asked, &result("1000", "public"), now);
        assert_eq!(lists.get(&ana, now), None, "an earlier change could have been missed");
        lists.keep(&ana, lists.generation(), &result("1000", "public"), now);
        assert!(lists.get(&ana, now).is_some());
        lists.close();
        assert_eq!(lists.get(&ana, now), None);
    }

    #[test]
    fn the_room_is_bounded_and_what_ends_first_goes_first() {
        let (lists, now) = (lists(), Instant::now());
        for number in 0..5000 {
            let text = result(&(100_000 + number).to_string(), "private");
            lists.keep(&key(&format!("user {number}"), "{}"), lists.generation(), &text, now);
        }
        let state = lists.state();
        let size: usize = state.kept.values().map(|kept| kept.size).sum();
        assert!(state.used == size && size <= 1 << 16 && state.kept.len() > 100, "{size} bytes");
        assert!(state.kept.len() <= MAX_KEPT);
        drop(state);
        assert!(lists.get(&key("user 4999", "{}"), now).is_some());
        assert!(lists.get(&key("user 0", "{}"), now).is_none());
        let large = result("1000", "public").replace("1.0", &"1,".repeat(5000));
        lists.keep(&key("ana", "large"), lists.generation(), &large, now);
        assert_eq!(lists.get(&key("ana", "large"), now), None);
        let off = Lists::new(0);
        off.open();
        off.keep(&key("ana", "{}"), off.generation(), &result("1000", "public"), now);
        assert_eq!(off.get(&key("ana", "{}"), now), None);
    }
}
