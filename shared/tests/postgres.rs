//! The stores in Postgres, against a real database of each test's own.

#[path = "postgres/messages.rs"]
mod messages;

use std::time::{Duration, Instant};

use servers::PostgresOptions;
use shared::{
    Error, Result,
    configuration::{Environment, PostgresSection},
    domain::{
        rooms::{Kind, Role, RoomId, Title},
        users::{Email, Name, UserId},
    },
    password::PasswordHash,
    postgres::{Credentials, NewUser, Postgres, Session, Situation},
    token::{Token, TokenHash},
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A database with the migrations, on the server at `TEST_POSTGRES_URL` or on one of its own.
struct Database {
    server: Option<servers::Postgres>,
    url: String,
}

impl Database {
    async fn make() -> Self {
        let given = std::env::var_os("TEST_POSTGRES_URL").and_then(|url| url.into_string().ok());
        match given {
            Some(administration) => Self::make_on(None, &administration).await,
            None => Self::make_on_own_server().await,
        }
    }

    async fn make_on_own_server() -> Self {
        let server = servers::Postgres::start(PostgresOptions::default()).await.expect("Postgres starts");
        let administration = server.url("postgres");
        Self::make_on(Some(server), &administration).await
    }

    async fn make_on(server: Option<servers::Postgres>, administration: &str) -> Self {
        let name = format!("shared_{}", Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(administration).await.expect("Postgres answers");
        let create = AssertSqlSafe(format!("create database {name}"));
        connection.execute(create).await.expect("the database is made");
        let (address, options) = administration.split_once('?').unwrap_or((administration, ""));
        let (address, _) = address.rsplit_once('/').expect("the URL names a database");
        let database = Self { server, url: format!("{address}/{name}?{options}") };
        let mut connection = database.connect().await;
        sqlx::migrate!("../migrations").run(&mut connection).await.expect("the migrations run");
        database
    }

    /// A store like the one of a process; two of them are two processes.
    fn store(&self) -> Postgres {
        let url: &'static str = Box::leak(self.url.clone().into_boxed_str());
        let environment = Environment::of_table([("DATABASE_URL", url)]);
        Postgres::new(&environment.section::<PostgresSection>().expect("the section is whole"))
    }

    /// A plain connection, to look behind the store.
    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("Postgres answers")
    }

    async fn execute(&self, statement: &'static str) {
        self.connect().await.execute(statement).await.expect("the statement is good");
    }

    async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.connect().await).await.expect("the query is good")
    }

    /// The connections of all stores to this database.
    async fn connections(&self) -> i64 {
        const QUERY: &str = "select count(*) from pg_stat_activity
             where datname = current_database() and application_name = 'banter'";
        self.number(QUERY).await
    }

    /// Waits until so many statements wait for a lock.
    async fn until_waiting(&self, count: i64) {
        const QUERY: &str = "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock'";
        self.until(QUERY, count).await;
    }

    async fn until(&self, query: &'static str, expected: i64) {
        let begin = Instant::now();
        loop {
            let found = self.number(query).await;
            if found == expected {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "{found} instead of {expected}: {query}");
            tokio::task::yield_now().await;
        }
    }
}

fn email(raw: &str) -> Email {
    Email::parse(raw).expect("is an address")
}

fn hash(number: u8) -> PasswordHash {
    PasswordHash::from_store(format!("$argon2id$v=19$m=19456,t=2,p=1$salt$hash{number}"))
}

fn token() -> TokenHash {
    Token::random().expect("there is randomness").hash()
}

fn room(id: &str) -> RoomId {
    RoomId::parse(id).expect("is an id")
}

fn title(raw: &str) -> Title {
    Title::parse(raw).expect("is a title")
}

async fn try_sign_up(store: &Postgres, address: &str) -> Result<Session> {
    let name = |raw| Name::parse(raw).expect("is a name");
    let new = NewUser {
        id: UserId::new(Uuid::now_v7()),
        first_name: name("Ada"),
        last_name: name("Lovelace"),
        email: email(address),
        password: hash(0),
    };
    store.sign_up(new, &token(), WEEK).await
}

async fn sign_up(store: &Postgres, name: &str) -> Session {
    try_sign_up(store, &format!("{name}@example.com")).await.expect("the address is free")
}

async fn log_in(store: &Postgres, user: UserId) -> Session {
    let checked = Credentials { user, password: hash(0) };
    store.log_in(&checked, &token(), WEEK).await.expect("the password is right")
}

async fn alive(store: &Postgres, session: &Session) -> bool {
    store.session(&session.hash, WEEK).await.expect("Postgres answers").is_some()
}

async fn make_room(store: &Postgres, id: &str, kind: Kind, owner: UserId) {
    let made = store.create_room(&room(id), &title("A room"), kind, owner).await;
    assert!(made.expect("Postgres answers").is_some(), "{id} is taken");
}

async fn give(store: &Postgres, id: &str, to: UserId, role: Role) {
    store.give_role(&room(id), to, to, |_| Ok(role)).await.expect("the role is given");
}

fn code<T>(outcome: Result<T>) -> &'static str {
    outcome.map_or_else(|error| error.code(), |_| "done")
}

// ---- Accounts -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_account_is_found_by_its_address_in_any_case() {
    let database = Database::make().await;
    let store = database.store();
    let ada = try_sign_up(&store, "Ada@Bücher.example").await.expect("the address is free");
    assert_eq!(ada.user.email.as_str(), "Ada@Bücher.example");
    for raw in ["Ada@Bücher.example", "ada@bücher.example", "ADA@BÜCHER.EXAMPLE"] {
        let found = store.credentials(&email(raw)).await.expect("Postgres answers");
        let found = found.unwrap_or_else(|| panic!("{raw} is not found"));
        assert!(found.user == ada.user.id && found.password == hash(0));
        assert_eq!(code(try_sign_up(&store, raw).await), "conflict", "{raw} is taken");
    }
    assert!(store.credentials(&email("ada@bucher.example")).await.expect("Postgres answers").is_none());
}

#[tokio::test]
async fn a_refused_sign_up_leaves_no_account_no_session_and_no_open_transaction() {
    let database = Database::make().await;
    let store = database.store();
    sign_up(&store, "ada").await;
    assert_eq!(code(try_sign_up(&store, "ADA@example.com").await), "conflict");
    assert_eq!(database.number("select count(*) from users").await, 1);
    assert_eq!(database.number("select count(*) from sessions").await, 1);
    const OPEN: &str = "select count(*) from pg_stat_activity
         where datname = current_database() and state like 'idle in transaction%'";
    assert_eq!(database.number(OPEN).await, 0, "a process that is frozen now would hold its locks");
    sign_up(&store, "bob").await;
    assert_eq!(database.connections().await, 1, "the connection was worth keeping");
}

#[tokio::test]
async fn a_change_of_name_changes_what_was_given() {
    let database = Database::make().await;
    let store = database.store();
    let ada = sign_up(&store, "ada").await.user;
    let augusta = Name::parse("Augusta").expect("is a name");
    let changed = store.rename(ada.id, Some(&augusta), None).await.expect("the account is there");
    assert_eq!((changed.first_name, changed.last_name), (augusta.clone(), ada.last_name));
    let unchanged = store.rename(ada.id, None, None).await.expect("the account is there");
    assert_eq!((unchanged.first_name, unchanged.created_at), (augusta, ada.created_at));
    assert_eq!(code(store.rename(UserId::new(Uuid::now_v7()), None, None).await), "not_found");
}

// ---- Sessions -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_session_that_is_used_moves_its_end_but_not_at_every_use() {
    let database = Database::make().await;
    let store = database.store();
    let session = sign_up(&store, "ada").await;
    let end = async || {
        let used = store.session(&session.hash, WEEK).await.expect("Postgres answers");
        used.expect("the session is alive").expires_at
    };
    let first = end().await;
    assert_eq!(first, session.expires_at, "nothing to gain yet");

    database.execute("update sessions set expires_at = expires_at - interval '55 minutes'").await;
    assert_eq!(end().await, first - Duration::from_secs(55 * 60), "not worth a write");
    database.execute("update sessions set expires_at = expires_at - interval '10 minutes'").await;
    let moved = end().await;
    assert!(first < moved, "{first} < {moved}");
    assert_eq!(end().await, moved);

    // SESSION_DAYS was larger once.
    database.execute("update sessions set expires_at = expires_at + interval '30 days'").await;
    assert_eq!(end().await, moved + Duration::from_secs(30 * 24 * 60 * 60), "a promise is kept");
}

#[tokio::test]
async fn a_session_that_has_run_out_is_none_and_the_next_log_in_removes_it() {
    let database = Database::make().await;
    let store = database.store();
    let old = sign_up(&store, "ada").await;
    database.execute("update sessions set expires_at = now()").await;
    assert!(!alive(&store, &old).await);
    assert!(store.end_session(&old.hash).await.expect("Postgres answers").is_none());
    assert!(
        store.session(&token(), WEEK).await.expect("Postgres answers").is_none(),
        "nobody has this token"
    );

    let new = log_in(&store, old.user.id).await;
    assert!(alive(&store, &new).await);
    assert_eq!(database.number("select count(*) from sessions").await, 1);
}

#[tokio::test]
async fn a_session_that_was_ended_is_told_again_until_it_is_forgotten() {
    let database = Database::make().await;
    let store = database.store();
    let here = sign_up(&store, "ada").await;
    let there = log_in(&store, here.user.id).await;
    let end = async || store.end_session(&here.hash).await.expect("Postgres answers");

    let ended = end().await.expect("it was alive");
    assert_eq!((ended.user, &ended.hashes), (here.user.id, &vec![here.hash]));
    assert!(!alive(&store, &here).await && alive(&store, &there).await);
    assert_eq!(end().await, Some(ended.clone()), "its sockets may still be open");

    store.forget_sessions(&ended).await.expect("Postgres answers");
    assert_eq!(end().await, None);
    assert!(alive(&store, &there).await);
}

#[tokio::test]
async fn all_sessions_of_one_user_end_together_and_an_ended_one_has_no_power_over_new_ones() {
    let database = Database::make().await;
    let store = database.store();
    let here = sign_up(&store, "ada").await;
    let there = log_in(&store, here.user.id).await;
    let bob = sign_up(&store, "bob").await;
    let end_all = async || store.end_all_sessions(&here.hash).await.expect("Postgres answers");

    let mut ended = end_all().await.expect("it was alive").hashes;
    ended.sort_by_key(|hash| *hash.as_bytes());
    let mut both = vec![here.hash, there.hash];
    both.sort_by_key(|hash| *hash.as_bytes());
    assert_eq!(ended, both);
    assert!(!alive(&store, &here).await && !alive(&store, &there).await && alive(&store, &bob).await);

    let new = log_in(&store, here.user.id).await;
    assert_eq!(end_all().await.expect("it is not forgotten yet").hashes.len(), 2);
    assert!(alive(&store, &new).await);
}

#[tokio::test]
async fn sessions_that_are_alive_cannot_be_forgotten() {
    let database = Database::make().await;
    let store = database.store();
    let session = sign_up(&store, "ada").await;
    let mut ended = store.ended_sessions(session.user.id).await.expect("Postgres answers");
    assert_eq!(ended.hashes, []);
    ended.hashes.push(session.hash);
    store.forget_sessions(&ended).await.expect("Postgres answers");
    assert!(alive(&store, &session).await);
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions_and_is_set_once() {
    let database = Database::make().await;
    let store = database.store();
    let here = sign_up(&store, "ada").await;
    let there = log_in(&store, here.user.id).await;
    let change = async |new| store.change_password(here.user.id, &hash(0), &hash(new), &here.hash).await;

    let ended = change(1).await.expect("the password was checked");
    assert_eq!(ended.hashes, [there.hash]);
    assert!(alive(&store, &here).await && !alive(&store, &there).await);
    assert!(store.password(here.user.id).await.expect("the account is there") == hash(1));
    assert_eq!(code(change(2).await), "conflict", "it was checked against another one");
    assert!(store.password(here.user.id).await.expect("the account is there") == hash(1));
}

#[tokio::test]
async fn no_session_is_opened_with_a_password_that_is_just_being_changed() {
    let database = Database::make().await;
    let store = database.store();
    let here = sign_up(&store, "ada").await;
    let mut change = database.connect().await;
    let mut change = change.begin().await.expect("Postgres answers");
    let new = AssertSqlSafe(format!("update users set password_hash = '{}'", hash(1).as_str()));
    change.execute(new).await.expect("the statement is good");

    let checked = Credentials { user: here.user.id, password: hash(0) };
    let log_in = tokio::spawn(async move { store.log_in(&checked, &token(), WEEK).await });
    database.until_waiting(1).await;
    change.commit().await.expect("Postgres answers");
    assert_eq!(code(log_in.await.expect("does not panic")), "unauthorized");
    assert_eq!(database.number("select count(*) from sessions").await, 1);
}

// ---- Rooms ----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_id_is_given_once_also_after_the_room_has_ended() {
    let database = Database::make().await;
    let store = database.store();
    let (ada, bob) = (sign_up(&store, "ada").await.user.id, sign_up(&store, "bob").await.user.id);
    let make = async |owner| {
        let made = store.create_room(&room("general"), &title("General"), Kind::Public, owner).await;
        made.expect("Postgres answers").is_some()
    };
    assert!(make(ada).await);
    assert!(!make(bob).await);
    store.end_room(&room("general"), ada, |_, _| Ok(())).await.expect("the room is there");
    assert!(!make(ada).await && !make(bob).await);
    store.forget_ended_room(&room("general")).await.expect("Postgres answers");
    assert!(!make(ada).await && !make(bob).await);
}

#[tokio::test]
async fn a_room_that_has_ended_is_gone_but_its_end_can_be_repeated_until_it_is_forgotten() {
    let database = Database::make().await;
    let store = database.store();
    let (ada, bob) = (sign_up(&store, "ada").await.user.id, sign_up(&store, "bob").await.user.id);
    make_room(&store, "general", Kind::Public, ada).await;
    give(&store, "general", bob, Role::Member).await;
    let owners_only = |_, role| if role == Some(Role::Owner) { Ok(()) } else { Err(Error::Forbidden) };
    let end = async |user| code(store.end_room(&room("general"), user, owners_only).await);

    store.forget_ended_room(&room("general")).await.expect("Postgres answers");
    assert_eq!(end(bob).await, "forbidden", "a room that lives keeps its members");
    assert_eq!(end(ada).await, "done");
    assert_eq!(end(ada).await, "done", "Redis may not have heard of it yet");
    assert_eq!(end(bob).await, "not_found");
    for user in [ada, bob] {
        assert!(store.standing(&room("general"), user).await.expect("Postgres answers").is_none());
        assert!(store.rooms_of(user, None, 50).await.expect("Postgres answers").items.is_empty());
        assert_eq!(
            code(store.give_role(&room("general"), user, user, |_| Ok(Role::Member)).await),
            "not_found"
        );
        assert_eq!(code(store.remove_member(&room("general"), user, user, |_| Ok(())).await), "not_found");
        let renamed = store.retitle_room(&room("general"), &title("New"), user, |_, _| Ok(())).await;
        assert_eq!(code(renamed), "not_found");
    }
    assert!(store.public_rooms(ada, None, 50).await.expect("Postgres answers").items.is_empty());

    store.forget_ended_room(&room("general")).await.expect("Postgres answers");
    assert_eq!(end(ada).await, "not_found");
    assert_eq!(code(store.end_room(&room("general"), ada, |_, _| Ok(())).await), "not_found");
}

#[tokio::test]
async fn rooms_are_listed_by_the_bytes_of_their_ids_page_by_page() {
    let database = Database::make().await;
    let store = database.store();
    let (ada, bob) = (sign_up(&store, "ada").await.user.id, sign_up(&store, "bob").await.user.id);
    // A dictionary would sort these otherwise.
    let sorted = ["0", "a", "a-b", "a-c", "aa", "b"];
    for id in ["b", "a-c", "aa", "0", "a", "a-b"] {
        make_room(&store, id, Kind::Public, ada).await;
    }
    make_room(&store, "a-secret", Kind::Private, ada).await;
    give(&store, "aa", bob, Role::Moderator).await;

    let (mut read, mut after) = (Vec::new(), None);
    loop {
        let page = store.public_rooms(bob, after.as_ref(), 2).await.expect("Postgres answers");
        assert!(page.items.len() <= 2);
        read.extend(page.items);
        if !page.more {
            break;
        }
        after = read.last().map(|(room, _)| room.id.clone());
    }
    assert_eq!(read.iter().map(|(room, _)| room.id.as_str()).collect::<Vec<_>>(), sorted);
    let roles: Vec<_> = read.iter().filter_map(|(room, role)| Some((room.id.as_str(), (*role)?))).collect();
    assert_eq!(roles, [("aa", Role::Moderator)]);

    let ids = async |user, after: Option<RoomId>, limit| {
        let page = store.rooms_of(user, after.as_ref(), limit).await.expect("Postgres answers");
        (page.items.into_iter().map(|(room, _)| room.id.to_string()).collect::<Vec<_>>(), page.more)
    };
    assert_eq!(ids(bob, None, 50).await, (vec!["aa".to_owned()], false));
    assert_eq!(ids(ada, Some(room("a-c")), 2).await, (vec!["a-secret".to_owned(), "aa".to_owned()], true));
    assert_eq!(ids(ada, Some(room("a-secret")), 2).await, (vec!["aa".to_owned(), "b".to_owned()], false));
}

// ---- Members --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_decision_sees_how_things_stand_and_a_refusal_changes_nothing() {
    let database = Database::make().await;
    let store = database.store();
    let (ada, bob) = (sign_up(&store, "ada").await.user.id, sign_up(&store, "bob").await.user.id);
    make_room(&store, "general", Kind::Private, ada).await;
    let id = room("general");
    let mut seen = None;
    let given = store.give_role(&id, ada, bob, |found| {
        seen = Some(found);
        Err(Error::Forbidden)
    });
    assert_eq!(code(given.await), "forbidden");
    let outside =
        Situation { kind: Kind::Private, actor: Some(Role::Owner), member: None, half_removed: false };
    assert_eq!(seen, Some(outside));
    assert_eq!(database.number("select count(*) from members").await, 1);

    give(&store, "general", bob, Role::Moderator).await;
    let removed = store.remove_member(&id, bob, ada, |found| {
        seen = Some(found);
        Err(Error::Forbidden)
    });
    assert_eq!(code(removed.await), "forbidden");
    let expected = Situation { actor: Some(Role::Moderator), member: Some(Role::Owner), ..outside };
    assert_eq!(seen, Some(expected));
    assert_eq!(database.number("select count(*) from members").await, 2);
}

#[tokio::test]
async fn one_who_was_removed_is_no_member_but_known_until_forgotten() {
    let database = Database::make().await;
    let store = database.store();
    let (ada, bob) = (sign_up(&store, "ada").await.user.id, sign_up(&store, "bob").await.user.id);
    make_room(&store, "general", Kind::Private, ada).await;
    make_room(&store, "other", Kind::Private, ada).await;
    for id in ["general", "other"] {
        give(&store, id, bob, Role::Owner).await;
    }
    let id = room("general");
    let leave = async |user| {
        let mut seen = None;
        let removed = store.remove_member(&id, user, user, |found| {
            seen = Some((found.member, found.half_removed));
            Ok(())
        });
        (code(removed.await), seen)
    };
    let member = Some((Some(Role::Owner), false));
    assert_eq!(leave(bob).await, ("done", member));
    // Nobody takes Bob for a member now: not as one of two owners, not in a list, not as one who may read.
    assert_eq!(leave(ada).await, ("conflict", member));
    assert_eq!(store.standing(&id, bob).await.expect("Postgres answers"), Some((Kind::Private, None)));
    let members = store.members(&id, None, 10).await.expect("Postgres answers").items;
    assert_eq!(members.iter().map(|member| member.user).collect::<Vec<_>>(), [ada]);
    let rooms = store.rooms_of(bob, None, 10).await.expect("Postgres answers").items;
    assert_eq!(rooms.iter().map(|(room, _)| room.id.as_str()).collect::<Vec<_>>(), ["other"]);

    for _ in 0..2 {
        assert_eq!(leave(bob).await, ("done", Some((None, true))), "the repeat finds what is left to do");
    }
    store.forget_member(&id, bob).await.expect("Postgres answers");
    assert_eq!(leave(bob).await, ("done", Some((None, false))));

    // One who was invited again meanwhile is not forgotten by the call that removed them.
    give(&store, "general", bob, Role::Member).await;
    leave(bob).await;
    give(&store, "general", bob, Role::Member).await;
    store.forget_member(&id, bob).await.expect("Postgres answers");
    let standing = store.standing(&id, bob).await.expect("Postgres answers");
    assert_eq!(standing, Some((Kind::Private, Some(Role::Member))));
    // And one who was half removed has no part in the end of the room.
    leave(bob).await;
    store.end_room(&id, ada, |_, _| Ok(())).await.expect("Postgres answers");
    assert_eq!(database.number("select count(*) from members where room_id = 'general'").await, 1);
}

#[tokio::test]
async fn a_user_who_is_not_there_becomes_no_member() {
    let database = Database::make().await;
    let store = database.store();
    let ada = sign_up(&store, "ada").await.user.id;
    make_room(&store, "general", Kind::Public, ada).await;
    let nobody = UserId::new(Uuid::now_v7());
    let given = store.give_role(&room("general"), ada, nobody, |_| Ok(Role::Member)).await;
    assert!(matches!(given, Err(Error::NotFound("user"))), "{given:?}");
    assert_eq!(code(store.remove_member(&room("general"), ada, nobody, |_| Ok(())).await), "done");
}

#[tokio::test]
async fn members_are_listed_by_their_ids_page_by_page() {
    let database = Database::make().await;
    let store = database.store();
    let ada = sign_up(&store, "ada").await.user.id;
    make_room(&store, "general", Kind::Public, ada).await;
    let mut users = vec![ada];
    for name in ["bob", "carol", "dan", "eve"] {
        let user = sign_up(&store, name).await.user.id;
        give(&store, "general", user, Role::Member).await;
        users.push(user);
    }
    users.sort();
    let page = async |after, limit| {
        let page = store.members(&room("general"), after, limit).await.expect("Postgres answers");
        (page.items.iter().map(|member| member.user).collect::<Vec<_>>(), page.more)
    };
    assert_eq!(page(None, 2).await, (users[..2].to_vec(), true));
    assert_eq!(page(Some(users[1]), 2).await, (users[2..4].to_vec(), true));
    assert_eq!(page(Some(users[3]), 2).await, (users[4..].to_vec(), false));
    assert_eq!(page(Some(users[4]), 2).await, (vec![], false));
    assert_eq!(page(None, 5).await, (users, false));
}

#[tokio::test]
async fn the_last_owner_neither_leaves_nor_steps_down() {
    let database = Database::make().await;
    let store = database.store();
    let (ada, bob) = (sign_up(&store, "ada").await.user.id, sign_up(&store, "bob").await.user.id);
    make_room(&store, "general", Kind::Public, ada).await;
    make_room(&store, "other", Kind::Public, ada).await;
    give(&store, "other", bob, Role::Owner).await;
    give(&store, "general", bob, Role::Moderator).await;
    let leave = async |user| code(store.remove_member(&room("general"), user, user, |_| Ok(())).await);
    let step_down =
        async |user| code(store.give_role(&room("general"), user, user, |_| Ok(Role::Member)).await);

    assert_eq!((leave(ada).await, step_down(ada).await), ("conflict", "conflict"));
    give(&store, "general", ada, Role::Owner).await;
    give(&store, "general", bob, Role::Owner).await;
    assert_eq!((step_down(ada).await, leave(ada).await), ("done", "done"));
    assert_eq!((leave(bob).await, step_down(bob).await), ("conflict", "conflict"));
}

#[tokio::test]
async fn of_two_owners_who_go_at_the_same_moment_one_is_told_to_stay() {
    let database = Database::make().await;
    let store = database.store();
    let (ada, bob) = (sign_up(&store, "ada").await.user.id, sign_up(&store, "bob").await.user.id);
    make_room(&store, "general", Kind::Public, ada).await;
    give(&store, "general", bob, Role::Owner).await;

    // Both are under way before either can go on.
    let mut gate = database.connect().await;
    let mut gate = gate.begin().await.expect("Postgres answers");
    gate.execute("select from rooms for update").await.expect("the statement is good");
    let (one, two) = (database.store(), database.store());
    let leave = tokio::spawn(async move { one.remove_member(&room("general"), ada, ada, |_| Ok(())).await });
    let step_down =
        tokio::spawn(async move { two.give_role(&room("general"), bob, bob, |_| Ok(Role::Member)).await });
    database.until_waiting(2).await;
    gate.rollback().await.expect("Postgres answers");

    let mut outcomes =
        [code(leave.await.expect("does not panic")), code(step_down.await.expect("does not panic"))];
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["conflict", "done"]);
    const OWNERS: &str = "select count(*) from members where role = 'owner' and removed_at is null";
    assert_eq!(database.number(OWNERS).await, 1);
}

// ---- The schema -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn what_the_domain_refuses_the_database_refuses_as_well() {
    let database = Database::make().await;
    let mut connection = database.connect().await;
    let user = |column: &str, value: &str| {
        let columns = ["first_name", "last_name", "email", "password_hash"];
        let values = columns.map(|name| match name {
            _ if name == column => value.to_owned(),
            "email" => "'ada@example.com'".to_owned(),
            "password_hash" => "'$argon2id$'".to_owned(),
            _ => "'Ada'".to_owned(),
        });
        format!(
            "insert into users (id, {}) values (gen_random_uuid(), {})",
            columns.join(", "),
            values.join(", ")
        )
    };
    let room = |id: &str, title: &str, kind: &str| {
        format!("insert into rooms (id, title, kind) values ({id}, {title}, {kind})")
    };
    for (statement, constraint) in [
        (user("first_name", "''"), "users_first_name_length"),
        (user("first_name", "repeat('é', 101)"), "users_first_name_length"),
        (user("last_name", "''"), "users_last_name_length"),
        (user("email", "repeat('a', 255)"), "users_email_length"),
        (user("password_hash", "'violet-kettle-orbit-42'"), "users_password_hash_argon2id"),
        (room("''", "'A'", "'public'"), "rooms_id_typeable"),
        (room("'-a'", "'A'", "'public'"), "rooms_id_typeable"),
        (room("'General'", "'A'", "'public'"), "rooms_id_typeable"),
        (room("E'a\\n'", "'A'", "'public'"), "rooms_id_typeable"),
        (room("repeat('a', 65)", "'A'", "'public'"), "rooms_id_typeable"),
        (room("'a'", "''", "'public'"), "rooms_title_length"),
        (room("'a'", "repeat('é', 101)", "'public'"), "rooms_title_length"),
        (room("'a'", "'A'", "'secret'"), "rooms_kind_known"),
    ] {
        let refused = connection.execute(AssertSqlSafe(statement.clone())).await.err();
        let refused = refused.unwrap_or_else(|| panic!("taken: {statement}"));
        let named = refused.as_database_error().and_then(|error| error.constraint());
        assert_eq!(named, Some(constraint), "{statement}: {refused}");
    }
    for statement in [
        user("first_name", "repeat('é', 100)"),
        room("repeat('a', 64)", "repeat('é', 100)", "'public'"),
        room("'0'", "'A'", "'private'"),
    ] {
        connection.execute(AssertSqlSafe(statement.clone())).await.expect("is within the limits");
    }
}

// ---- The connection -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_process_opens_one_connection_and_only_when_it_needs_it() {
    let database = Database::make().await;
    let store = database.store();
    assert_eq!(database.connections().await, 0);
    let session = sign_up(&store, "ada").await;
    let many = (0..20).map(|_| {
        let (store, hash) = (store.clone(), session.hash);
        tokio::spawn(async move { store.session(&hash, WEEK).await })
    });
    for one in many.collect::<Vec<_>>() {
        assert!(one.await.expect("does not panic").expect("Postgres answers").is_some());
    }
    assert_eq!(database.connections().await, 1);
}

#[tokio::test]
async fn a_call_that_is_dropped_half_way_changes_nothing_and_holds_nothing() {
    let database = Database::make().await;
    let store = database.store();
    let ada = sign_up(&store, "ada").await.user.id;
    make_room(&store, "general", Kind::Public, ada).await;
    let mut gate = database.connect().await;
    let mut gate = gate.begin().await.expect("Postgres answers");
    gate.execute("lock table members in exclusive mode").await.expect("the statement is good");

    let id = room("general");
    tokio::select! {
        _ = store.give_role(&id, ada, ada, |_| Ok(Role::Owner)) => panic!("the table is locked"),
        () = database.until_waiting(1) => {}
    }
    gate.rollback().await.expect("Postgres answers");
    assert_eq!(store.standing(&id, ada).await.expect("works on"), Some((Kind::Public, Some(Role::Owner))));
    // The room's row is free again: the lock went with the connection.
    store.retitle_room(&id, &title("New"), ada, |_, _| Ok(())).await.expect("the room is free");
}

#[tokio::test]
async fn a_lock_that_somebody_keeps_is_given_up_by_postgres_before_the_caller_has_gone() {
    let database = Database::make().await;
    let store = database.store();
    let ada = sign_up(&store, "ada").await.user.id;
    make_room(&store, "general", Kind::Public, ada).await;
    let mut gate = database.connect().await;
    let mut gate = gate.begin().await.expect("Postgres answers");
    gate.execute("select from rooms for update").await.expect("the statement is good");

    let refused = store.retitle_room(&room("general"), &title("New"), ada, |_, _| Ok(())).await;
    let refused = refused.expect_err("the room is locked");
    assert_eq!(refused.code(), "unavailable");
    let cause = refused.cause_chain().unwrap_or_default();
    assert!(cause.contains("lock timeout"), "{cause}");
    gate.rollback().await.expect("Postgres answers");
    store.retitle_room(&room("general"), &title("New"), ada, |_, _| Ok(())).await.expect("the room is free");
}

#[tokio::test]
async fn without_postgres_everything_is_unavailable_and_works_again_when_it_is_back() {
    let mut database = Database::make_on_own_server().await;
    let (used, unused) = (database.store(), database.store());
    let session = sign_up(&used, "ada").await;
    for _ in 0..2 {
        database.server.as_mut().expect("it is its own").kill().await.expect("Postgres ends");
        for store in [&used, &unused] {
            assert_eq!(code(store.ping().await), "unavailable");
            assert_eq!(code(store.session(&session.hash, WEEK).await), "unavailable");
            assert_eq!(code(try_sign_up(store, "bob@example.com").await), "unavailable");
        }
        database.server.as_mut().expect("it is its own").resume().await.expect("Postgres starts");
        // At the first try: whoever was told that it is back need not try twice.
        for store in [&used, &unused] {
            assert_eq!(code(store.ping().await), "done");
        }
    }
    sign_up(&unused, "bob").await;
}

#[tokio::test]
async fn a_connection_that_has_died_costs_one_call_at_most() {
    let database = Database::make().await;
    let store = database.store();
    let session = sign_up(&store, "ada").await;
    const END: &str = "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and application_name = 'banter'";
    database.execute(END).await;
    // Used a moment ago, it is trusted and the loss is told; unused for longer, it would have been asked before.
    let first = code(store.session(&session.hash, WEEK).await);
    assert!(["unavailable", "done"].contains(&first), "{first}");
    assert!(alive(&store, &session).await);
    assert_eq!(database.connections().await, 1);
}

#[tokio::test]
async fn a_postgres_that_does_not_answer_is_unavailable_after_some_seconds() {
    let mut database = Database::make_on_own_server().await;
    let (used, unused) = (database.store(), database.store());
    let session = sign_up(&used, "ada").await;
    let server = database.server.as_mut().expect("it is its own");
    server.freeze().expect("Postgres stands still");
    let calls = async { tokio::join!(used.session(&session.hash, WEEK), unused.ping()) };
    let (one, two) = tokio::time::timeout(Duration::from_secs(20), calls).await.expect("none of them hangs");
    assert_eq!((code(one), code(two)), ("unavailable", "unavailable"));
    server.thaw().expect("Postgres goes on");
    assert!(alive(&used, &session).await);
    assert_eq!(code(unused.ping().await), "done");
}
