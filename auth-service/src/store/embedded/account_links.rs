//! The links between accounts and the users of other issuers.

use async_trait::async_trait;

use crate::domain::account::Subject;
use crate::domain::opaque_token::TokenHash;
use crate::store::{AccountLinkStore, Deletion, Linking, StoreError};

use super::EmbeddedStore;
use super::rows::Rows;
use super::tables::Table;

#[async_trait]
impl AccountLinkStore for EmbeddedStore {
    async fn linked_account(&self, issuer: &str, sub: &str) -> Result<Option<Subject>, StoreError> {
        self.read(|rows| rows.get(Table::Links, &link_key(issuer, sub)))
    }

    async fn link_account(&self, issuer: &str, sub: &str, subject: &Subject) -> Result<Linking, StoreError> {
        let (there, back) = (link_key(issuer, sub), link_key(issuer, subject.as_str()));
        let (sub, subject) = (sub.to_owned(), subject.clone());
        self.writer
            .write(move |rows| {
                let led_to: Option<Subject> = rows.get(Table::Links, &there)?;
                let led_back: Option<String> = rows.get(Table::LinksBack, &back)?;
                if led_to.is_some_and(|other| other != subject) || led_back.is_some_and(|other| other != sub)
                {
                    return Ok(Linking::OtherLink);
                }
                rows.put(Table::LinksBack, &back, &sub, None)?;
                rows.put(Table::Links, &there, &subject, None)?;
                Ok(Linking::Linked)
            })
            .await
    }

    async fn unlink_account(&self, issuer: &str, subject: &Subject) -> Result<Deletion, StoreError> {
        let (issuer, back) = (issuer.to_owned(), link_key(issuer, subject.as_str()));
        self.writer
            .write_even_late(move |rows| {
                let Some(sub) = rows.get::<String>(Table::LinksBack, &back)? else {
                    return Ok(Deletion::Missing);
                };
                rows.remove(Table::Links, &link_key(&issuer, &sub))?;
                rows.remove(Table::LinksBack, &back)?;
                Ok(Deletion::Deleted)
            })
            .await
    }
}

fn link_key(issuer: &str, name: &str) -> String {
    TokenHash::of(format!("{issuer}\n{name}").as_bytes()).text()
}
