//! Authorization codes, and the user's answers to consent forms.

use async_trait::async_trait;

use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant};
use crate::domain::opaque_token::TokenHash;

use super::{Denial, FoundCode, Issuance, Redemption, StoreError};

/// Stores authorization codes.
#[async_trait]
pub trait CodeStore: Send + Sync {
    /// Stores a code. If its account has too many unredeemed codes, the oldest code of the client with the most
    /// codes is deleted. Each `approval` can create only one code, and none after it has been denied.
    async fn add_code(
        &self,
        approval: &str,
        hash: &TokenHash,
        code: &AuthorizationCode,
        used: &ClientUse,
    ) -> Result<Issuance, StoreError>;
    /// Records that `approval` was denied, at least until `until`, so that it cannot create a code.
    /// Denying it again has no further effect.
    async fn deny(&self, approval: &str, until: UnixTime, now: UnixTime) -> Result<Denial, StoreError>;
    /// Looks up a code without redeeming it, for the checks that come before redemption.
    async fn find_code(&self, hash: &TokenHash, now: UnixTime) -> Result<FoundCode, StoreError>;
    /// Redeems a code and creates its grant, in one atomic step. If the account has too many grants, the least
    /// recently refreshed grants of the client with the most grants are deleted. If several calls run at the same
    /// time, only one succeeds. `grant` has the identifier that is stored with the code.
    async fn redeem_code(
        &self,
        hash: &TokenHash,
        grant: &Grant,
        used: &ClientUse,
    ) -> Result<Redemption, StoreError>;
}
