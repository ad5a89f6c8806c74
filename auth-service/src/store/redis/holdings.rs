//! The lists of each account's rows, one list for each kind of row. A list is in a different slot from its rows,
//! so the two cannot be written in one step. The row is written first, so that no other call can remove it before
//! it exists. If a change is interrupted, a list can lack a row, or contain an entry without a row, which counts
//! until its expiry.

use std::sync::LazyLock;

use fred::types::Value;
use futures_util::future::join_all;

use crate::domain::account::{LoginSession, Subject};
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant};
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::TokenHash;
use crate::store::StoreError;
use crate::store::holdings::{Held, Holding, insert_imported, leaving};
use crate::store::records::Kind;
use crate::store::rules::CodeRow;

use super::cells::{Cells, Life};
use super::connection::Script;
use super::tries::Tries;
use super::turns::Turn;

/// Adds a row to the end of a list, or moves it there. A list is stored as text. Its first line is the time at
/// which the list expires, and each other line has the time, the expiry and the name of a row. The key is the
/// list's key. The arguments are the current time, the time, the expiry and the name of the row, and a number of
/// rows. Returns the list if it has more rows than that, and an empty string otherwise.
///
/// A sorted set would need commands (`EXPIRE`) that a Redis user with limited permissions might not have.
static ADD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local now, ends = tonumber(ARGV[1]), tonumber(ARGV[3])
         local head, rest = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+)\\n(.*)$')
         ends = math.max(ends, tonumber(head or '0'))
         local lines = {string.format('%.0f', ends)}
         for line in string.gmatch(rest or '', '[^\\n]+') do
           local name = string.match(line, '^%d+ %d+ (.*)$')
           if name and name ~= ARGV[4] then table.insert(lines, line) end
         end
         table.insert(lines, ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
         local text = table.concat(lines, '\\n')
         local life = math.max(ends - now, 0) * 1000 + 60000
         redis.call('SET', KEYS[1], text, 'PX', string.format('%.0f', life))
         if #lines - 1 > tonumber(ARGV[5]) then return text end
         return ''",
    )
});

/// Replaces a list if it is still the one that was read. The key is the list's key. The arguments are the list as
/// it was read (empty if absent), the new one, and its lifetime in milliseconds.
static REPLACE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
         redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
         return 1",
    )
});

/// Removes rows from a list, even if Redis is full (see `SWAP_ALTHOUGH_FULL` in `cells.rs`). The keys are the
/// list's key and one that never exists, and the arguments are the names of the rows. The last argument of every
/// script is the number of the request.
static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local list = redis.call('GET', KEYS[1])
         if not list then return 0 end
         local leaves = {}
         for place = 1, #ARGV - 1 do leaves[ARGV[place]] = true end
         local lines = {}
         for line in string.gmatch(list, '[^\\n]+') do
           local name = string.match(line, '^%d+ %d+ (.*)$')
           if not (name and leaves[name]) then table.insert(lines, line) end
         end
         redis.call('DEL', KEYS[2])
         redis.call('SET', KEYS[1], table.concat(lines, '\\n'), 'KEEPTTL')
         return 1",
    )
});

/// An entry in a list of the account `subject`.
pub(super) struct New<'a> {
    holding: Holding,
    subject: &'a Subject,
    held: Held,
    now: UnixTime,
}

impl<'a> New<'a> {
    pub(super) fn code(hash: &TokenHash, code: &'a AuthorizationCode, now: UnixTime) -> Self {
        Self { holding: Holding::Codes, subject: &code.subject, held: Held::code(hash, code, now), now }
    }

    pub(super) fn grant(grant: &'a Grant, now: UnixTime) -> Self {
        Self { holding: Holding::Grants, subject: &grant.subject, held: Held::grant(grant, now), now }
    }

    /// Sessions are added within a second of the login, so the time of login is the current time.
    pub(super) fn session(session: &'a LoginSession) -> Self {
        let (held, now) = (Held::session(session), session.authenticated_at);
        Self { holding: Holding::Sessions, subject: &session.subject, held, now }
    }

    pub(super) fn consent(name: &str, subject: &'a Subject, life: Life) -> Self {
        let held = Held::consent(name, life.now, life.until);
        Self { holding: Holding::Consents, subject, held, now: life.now }
    }
}

/// Adds a row to its list, or moves it to the end of the list, and deletes nothing.
pub(super) async fn note(cells: &Cells, new: &New<'_>) -> Result<(), StoreError> {
    add(cells, new, usize::MAX).await.map(|_| ())
}

/// Adds an imported row to its list, at the position that corresponds to its time.
pub(super) async fn enter(cells: &Cells, new: &New<'_>, now: UnixTime) -> Result<(), StoreError> {
    let key = cells.keys.holdings(new.holding, new.subject);
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let text: Option<String> = cells.connection.run("GET", vec![key.as_str().into()]).await?;
        let text = text.unwrap_or_default();
        let mut list = parsed(&text);
        list.retain(|held| held.name != new.held.name);
        insert_imported(&mut list, new.held.clone(), now);
        let ends = list.iter().map(|held| held.until).max().unwrap_or(now);
        let lines = list.iter().map(|held| format!("{} {} {}", held.at.0, held.until.0, held.name));
        let changed: Vec<_> = [ends.0.to_string()].into_iter().chain(lines).collect();
        let life = Life { until: ends, now }.milliseconds();
        let arguments = vec![text.into(), changed.join("\n").into(), life.into()];
        if cells.connection.script::<bool>(&REPLACE, &[&key], arguments).await? {
            return Ok(());
        }
    }
}

/// Adds a row that has just been written to its list, and deletes the rows that then exceed the limits. Returns
/// the grants among the deleted rows.
///
/// Errors are logged and not returned, because the row exists. A caller that gets an error tries again, and a
/// second redemption of a code, for example, would revoke the grant.
pub(super) async fn hold(cells: &Cells, new: &New<'_>) -> Vec<Grant> {
    let turn = cells.turn(new.subject).await;
    match try_hold(cells, new, &turn).await {
        Ok(displaced) => displaced,
        failed => {
            log_error(failed);
            Vec::new()
        }
    }
}

/// Like [`hold`], for a row whose creation can still be undone.
///
/// `_turn` proves that no other call in this process changes the rows of the account. Otherwise, many concurrent
/// calls would try to remove the same rows.
///
/// # Errors
/// Fails if the row could not be added to its list. It is not an error if another row could not be removed,
/// because that row stays in the list and is removed by the next call.
pub(super) async fn try_hold(
    cells: &Cells,
    new: &New<'_>,
    _turn: &Turn<'_>,
) -> Result<Vec<Grant>, StoreError> {
    let list = add(cells, new, new.holding.of_client()).await?;
    let goes = leaving(new.holding, list, &new.held.name, new.now);
    if goes.is_empty() {
        return Ok(Vec::new());
    }
    let removed = join_all(goes.iter().map(|held| remove(cells, new.holding, held))).await;
    let (mut grants, mut names) = (Vec::new(), Vec::new());
    for (held, removed) in goes.iter().zip(removed) {
        match removed {
            Ok(grant) => {
                grants.extend(grant.filter(|grant| !grant.is_expired(new.held.at)));
                names.push(held.name.as_str());
            }
            failed => log_error(failed),
        }
    }
    log_error(leave(cells, new, names).await);
    Ok(grants)
}

/// Removes the entry of a row that has been deleted or used up. Entries are compared by name only. Errors are
/// logged, and the entry then counts until its expiry.
pub(super) async fn release(cells: &Cells, gone: &New<'_>) {
    log_error(leave(cells, gone, vec![&gone.held.name]).await);
}

/// Deletes a grant and its entry.
pub(super) async fn remove_grant(cells: &Cells, id: &GrantId) -> Result<(), StoreError> {
    if let Some(grant) = cells.take_out::<Grant>(&cells.keys.grant(id)).await?
        && grant.refresh.is_some()
    {
        release(cells, &New::grant(&grant, grant.created_at)).await;
    }
    Ok(())
}

/// The identifiers of the grants in the list of an account. Some might have expired.
pub(super) async fn grants(cells: &Cells, subject: &Subject) -> Result<Vec<GrantId>, StoreError> {
    let key = cells.keys.holdings(Holding::Grants, subject);
    let text: Option<String> = cells.connection.run("GET", vec![key.into()]).await?;
    let list = parsed(&text.unwrap_or_default()).into_iter();
    let ids = list.map(|held| GrantId::try_from(held.row().to_owned()).map_err(|_| StoreError::Unreadable));
    ids.collect()
}

/// Deletes a login session and its entry.
pub(super) async fn remove_session(cells: &Cells, id: &TokenHash) -> Result<(), StoreError> {
    if let Some(session) = cells.take_out::<LoginSession>(&cells.keys.session(id)).await? {
        release(cells, &New::session(&session)).await;
    }
    Ok(())
}

/// Logs an error that is not returned.
pub(super) fn log_error<T>(done: Result<T, StoreError>) {
    if let Err(error) = done {
        tracing::warn!(
            "the list of an account's rows cannot be changed, so the account might exceed its ceilings: {error}"
        );
    }
}

/// Adds a row to its list. Returns the list if it has more than `many` rows, and an empty list otherwise.
async fn add(cells: &Cells, new: &New<'_>, many: usize) -> Result<Vec<Held>, StoreError> {
    let arguments: Vec<Value> = vec![
        new.now.0.to_string().into(),
        new.held.at.0.to_string().into(),
        new.held.until.0.to_string().into(),
        new.held.name.as_str().into(),
        many.to_string().into(),
    ];
    let key = cells.keys.holdings(new.holding, new.subject);
    let list: String = cells.connection.script(&ADD, &[&key], arguments).await?;
    Ok(parsed(&list))
}

/// Parses the rows of a list, as [`ADD`] returns it.
fn parsed(list: &str) -> Vec<Held> {
    let line = |line: &str| {
        let (at, rest) = line.split_once(' ')?;
        let (until, name) = rest.split_once(' ')?;
        let time = |text: &str| text.parse().ok().map(UnixTime);
        Some(Held { at: time(at)?, until: time(until)?, name: name.to_owned() })
    };
    list.lines().skip(1).filter_map(line).collect()
}

async fn leave(cells: &Cells, new: &New<'_>, names: Vec<&str>) -> Result<(), StoreError> {
    let key = cells.keys.holdings(new.holding, new.subject);
    let keys = [key.as_str(), &format!("{key}:none")];
    let names = names.into_iter().map(Value::from).collect();
    cells.connection.script::<i64>(&RELEASE, &keys, names).await.map(|_| ())
}

/// Deletes a row. Returns it if it is a grant. Redeemed codes are kept, so that a replay is detected.
async fn remove(cells: &Cells, holding: Holding, held: &Held) -> Result<Option<Grant>, StoreError> {
    match holding {
        Holding::Codes => remove_code(cells, held).await?,
        Holding::Grants => {
            let id = GrantId::try_from(held.row().to_owned()).map_err(|_| StoreError::Unreadable)?;
            return cells.take_out::<Grant>(&cells.keys.grant(&id)).await;
        }
        Holding::Sessions => cells.take_away(&cells.keys.of(Kind::Session, held.row())).await.map(|_| ())?,
        Holding::Consents => cells.remove(&cells.keys.of(Kind::Consent, held.row())).await.map(|_| ())?,
    }
    Ok(None)
}

async fn remove_code(cells: &Cells, held: &Held) -> Result<(), StoreError> {
    let Some((grant, hash)) = held.code_parts() else { return Ok(()) };
    let grant = GrantId::try_from(grant.to_owned()).map_err(|_| StoreError::Unreadable)?;
    let key = cells.keys.code_below(&grant, hash);
    match cells.read::<CodeRow>(&key).await? {
        Some(found) if !found.value.redeemed => {
            if cells.remove_found(&key, &found).await? {
                cells.remove(&cells.keys.of_code(hash)).await?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
