//! The authorizer of `$connect`: a ticket or a session token becomes an identity, which the gateway repeats on every
//! later event of the connection.

use std::{collections::HashMap, time::Duration};

use aws_lambda_events::{
    apigw::{
        ApiGatewayCustomAuthorizerPolicy, ApiGatewayCustomAuthorizerRequestTypeRequest,
        ApiGatewayCustomAuthorizerResponse,
    },
    iam::{IamPolicyEffect, IamPolicyStatement},
};
use lambda::{Fatal, access::Access, websocket::context};
use serde_json::Value;
use shared::{
    Error, Result,
    configuration::{Environment, PostgresSection, RedisSection, SessionSection},
    domain::users::display_name,
    identity::Identity,
    postgres::Postgres,
    redis::Redis,
    token::TokenHash,
};

/// The gateway's request.
pub type Request = ApiGatewayCustomAuthorizerRequestTypeRequest;
/// What the gateway takes.
pub type Response = ApiGatewayCustomAuthorizerResponse<HashMap<String, Value>>;

/// What the function needs, built once.
pub struct App {
    postgres: Postgres,
    redis: Redis,
    session_lifetime: Duration,
}

impl App {
    /// Reads the configuration.
    ///
    /// # Errors
    /// A variable is absent or bad.
    pub fn from_env(environment: &Environment) -> Result<Self, Fatal> {
        Ok(Self {
            postgres: Postgres::new(&environment.section::<PostgresSection>()?),
            redis: Redis::new(&environment.section::<RedisSection>()?)?,
            session_lifetime: environment.section::<SessionSection>()?.lifetime,
        })
    }
}

/// The gateway turns exactly this text into a 401, and every other failure into a 500.
#[derive(Debug, thiserror::Error)]
#[error("Unauthorized")]
pub struct Unauthorized;

/// Says who opens the connection.
///
/// # Errors
/// [`Unauthorized`], or why it cannot be told right now.
pub async fn handle(app: &App, request: Request, access: &mut Access) -> Result<Response, Fatal> {
    match identify(app, &request).await {
        Ok(identity) => {
            access.user = Some(identity.user.to_string());
            Ok(allow(identity, request.method_arn.unwrap_or_default()))
        }
        Err(Error::Unauthorized(_)) => Err(Unauthorized.into()),
        Err(error) => {
            access.log_cause(&error);
            Err(error.code().into())
        }
    }
}

async fn identify(app: &App, request: &Request) -> Result<Identity> {
    if let Some(ticket) = request.query_string_parameters.first("ticket") {
        return app.redis.redeem_ticket(&TokenHash::of(ticket)).await?.ok_or(Error::session_ended());
    }
    let header = request.headers.get("authorization").and_then(|header| header.to_str().ok());
    let token = TokenHash::of_authorization(header)?;
    let session = app.postgres.session(&token, app.session_lifetime).await?;
    let session = session.ok_or(Error::session_ended())?;
    Ok(Identity {
        user: session.user.id,
        name: display_name(&session.user.first_name, &session.user.last_name),
        session: session.hash,
    })
}

fn allow(identity: Identity, method_arn: String) -> Response {
    let mut statement = IamPolicyStatement::default();
    statement.effect = IamPolicyEffect::Allow;
    statement.action = vec!["execute-api:Invoke".to_owned()];
    statement.resource = vec![method_arn];
    let mut policy = ApiGatewayCustomAuthorizerPolicy::default();
    policy.version = Some("2012-10-17".to_owned());
    policy.statement = vec![statement];
    let mut response = Response::default();
    response.principal_id = Some(identity.user.to_string());
    response.policy_document = policy;
    response.context = HashMap::from([
        (context::USER.to_owned(), identity.user.to_string().into()),
        (context::NAME.to_owned(), identity.name.into()),
        (context::SESSION.to_owned(), identity.session.to_string().into()),
    ]);
    response
}
