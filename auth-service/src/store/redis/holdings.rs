//! The lists of what each account holds, one of each kind. A list is in a different slot from its rows, so
//! both cannot be written in one step. If that is interrupted, a list can name a row that does not exist.
//! Such an entry is removed like any other.

use std::sync::LazyLock;

use fred::types::Value;
use futures_util::future::try_join_all;

use crate::domain::account::{LoginSession, Subject};
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant, GrantId};
use crate::domain::opaque_token::TokenHash;
use crate::store::StoreError;
use crate::store::holdings::{Held, Holding, leaving};
use crate::store::records::Kind;
use crate::store::rules::CodeRow;

use super::cells::{Cells, Life};
use super::connection::Script;

/// Changes a list: a text whose first line is the time at which it ends, and whose other lines each have the
/// time and the name of a row. The key is that of the list. The arguments are the time at which the list ends
/// at the earliest, the current time, the time and the name of the row to add (empty for none), the number of
/// rows up to which nothing is returned, and the names of the rows to remove. Returns the list.
///
/// A sorted set would need commands (`EXPIRE`) that a Redis user with limited permissions might not have.
static CHANGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local leaves = {[ARGV[4]] = true}
         for place = 6, #ARGV - 1 do leaves[ARGV[place]] = true end
         local head, rest = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+)\\n(.*)$')
         local ends = math.max(tonumber(ARGV[1]), tonumber(head or '0'))
         local lines = {string.format('%.0f', ends)}
         for line in string.gmatch(rest or '', '[^\\n]+') do
           if not leaves[string.match(line, '^%d+ (.*)$')] then table.insert(lines, line) end
         end
         if ARGV[4] ~= '' then table.insert(lines, ARGV[3] .. ' ' .. ARGV[4]) end
         local text = table.concat(lines, '\\n')
         local life = math.max(ends - tonumber(ARGV[2]), 0) * 1000 + 60000
         redis.call('SET', KEYS[1], text, 'PX', string.format('%.0f', life))
         if #lines - 1 > tonumber(ARGV[5]) then return text end
         return ''",
    )
});

/// A row of the account `subject`.
pub(super) struct New<'a> {
    holding: Holding,
    subject: &'a Subject,
    held: Held,
    life: Life,
}

impl<'a> New<'a> {
    pub(super) fn code(hash: &TokenHash, code: &'a AuthorizationCode, life: Life) -> Self {
        let held = Held::code(hash, code, life.now);
        Self { holding: Holding::Codes, subject: &code.subject, held, life }
    }

    pub(super) fn grant(grant: &'a Grant, at: UnixTime, life: Life) -> Self {
        let held = Held::grant(grant, at);
        Self { holding: Holding::Grants, subject: &grant.subject, held, life }
    }

    pub(super) fn session(session: &'a LoginSession, life: Life) -> Self {
        let held = Held::session(session);
        Self { holding: Holding::Sessions, subject: &session.subject, held, life }
    }

    pub(super) fn consent(name: &str, subject: &'a Subject, life: Life) -> Self {
        Self { holding: Holding::Consents, subject, held: Held::consent(name, life.now), life }
    }
}

/// Adds a row to its list, or moves it to its new time, and deletes nothing.
pub(super) async fn note(cells: &Cells, new: &New<'_>) -> Result<(), StoreError> {
    change(cells, new, true, usize::MAX, &[]).await.map(|_| ())
}

/// Adds a row to its list, and deletes the rows that are removed for it. Returns the grants among them.
pub(super) async fn hold(cells: &Cells, new: &New<'_>) -> Result<Vec<Grant>, StoreError> {
    let list = change(cells, new, true, new.holding.of_client(), &[]).await?;
    let goes = leaving(new.holding, list, &new.held.name);
    if goes.is_empty() {
        return Ok(Vec::new());
    }
    let removed = try_join_all(goes.iter().map(|held| remove(cells, new.holding, held))).await?;
    change(cells, new, false, usize::MAX, &goes).await?;
    Ok(removed.into_iter().flatten().filter(|grant| !grant.is_expired(new.held.at)).collect())
}

/// Adds the row if `adds` is true, and removes `leaves`. Returns the list if it has more than `many` rows,
/// and an empty list otherwise.
async fn change(
    cells: &Cells,
    new: &New<'_>,
    adds: bool,
    many: usize,
    leaves: &[Held],
) -> Result<Vec<Held>, StoreError> {
    let mut arguments: Vec<Value> = vec![
        new.life.until.0.to_string().into(),
        new.life.now.0.to_string().into(),
        new.held.at.0.to_string().into(),
        if adds { new.held.name.as_str().into() } else { "".into() },
        many.to_string().into(),
    ];
    arguments.extend(leaves.iter().map(|held| Value::from(held.name.as_str())));
    let key = cells.keys.holdings(new.holding, new.subject);
    let list: String = cells.connection.script(&CHANGE, &[&key], arguments).await?;
    let line = |line: &str| {
        let (at, name) = line.split_once(' ')?;
        Some(Held { at: UnixTime(at.parse().ok()?), name: name.to_owned() })
    };
    Ok(list.lines().skip(1).filter_map(line).collect())
}

/// Deletes a row. Returns it if it is a grant. Redeemed codes are kept, so that a replay is noticed.
async fn remove(cells: &Cells, holding: Holding, held: &Held) -> Result<Option<Grant>, StoreError> {
    match holding {
        Holding::Codes => remove_code(cells, held).await?,
        Holding::Grants => {
            let id = GrantId::try_from(held.row().to_owned()).map_err(|_| StoreError::Unreadable)?;
            let key = cells.keys.grant(&id);
            let grant = cells.read::<Grant>(&key).await?.map(|found| found.value);
            cells.take_away(&key).await?;
            return Ok(grant);
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
