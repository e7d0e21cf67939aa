//! Tickets: each opens one WebSocket, once, within 30 seconds.

use std::time::Duration;

use super::{Redis, keys};
use crate::{
    error::{Error, Result},
    identity::Identity,
    token::TokenHash,
};

impl Redis {
    /// How long a ticket is worth something.
    pub const TICKET_LIFETIME: Duration = Duration::from_secs(30);

    /// Remembers whom a ticket lets in.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn issue_ticket(&self, ticket: &TokenHash, identity: &Identity) -> Result<()> {
        const OPERATION: &str = "issuing a ticket";
        let identity = serde_json::to_string(identity).map_err(|cause| Error::internal(OPERATION, cause))?;
        let mut command = redis::cmd("SET");
        command.arg(keys::ticket(ticket)).arg(identity).arg("EX").arg(Self::TICKET_LIFETIME.as_secs());
        self.link.query(&command, OPERATION).await
    }

    /// Takes a ticket: the second try gets nothing. Therefore nothing is tried twice here, either: if the answer is lost,
    /// Redis was away, and the client asks for another ticket.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn redeem_ticket(&self, ticket: &TokenHash) -> Result<Option<Identity>> {
        const OPERATION: &str = "redeeming a ticket";
        let mut command = redis::cmd("GETDEL");
        command.arg(keys::ticket(ticket));
        let identity: Option<String> = self.link.query_once(&command, OPERATION).await?;
        let identity = identity.map(|identity| serde_json::from_str(&identity)).transpose();
        identity.map_err(|cause| Error::internal(OPERATION, cause))
    }
}
