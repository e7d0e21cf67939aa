//! The stores in Redis, against a real Redis of each test's own.

use std::time::{Duration, Instant};

use redis::{TlsCertificates, cluster::ClusterClientBuilder};
use servers::{ClusterSnapshot, RedisCluster, RedisClusterOptions, RedisOptions};
use shared::{
    Error,
    configuration::{Environment, RedisSection},
    domain::{
        messages::{ClientId, ConnectionId, EventId, Generation, Position, Text},
        rates::Rates,
        rooms::RoomId,
        users::UserId,
    },
    identity::Identity,
    postgres::{Known, Settlement, StoredRoom},
    protocol::frames::{Content, Event, EventBody},
    redis::{
        Admission, Compared, Cursor, Entry, JoinOutcome, Joined, Posted, Redis, Resume, Settled,
        SubscriberChange,
    },
    token::TokenHash,
};
use uuid::Uuid;

/// A store on servers of its own, and a plain connection to look behind it.
struct Store {
    servers: Servers,
    redis: Redis,
    raw: Raw,
}

enum Servers {
    One(Box<servers::Redis>),
    Cluster(RedisCluster),
}

/// What Redis knew at one moment.
enum Snapshot {
    One(servers::Snapshot),
    Cluster(ClusterSnapshot),
}

enum Raw {
    One(redis::aio::MultiplexedConnection),
    Cluster(redis::cluster_async::ClusterConnection),
}

impl Store {
    async fn on_one_server() -> Self {
        let server = servers::Redis::start(RedisOptions::default()).await.expect("Redis starts");
        let raw = redis::Client::open(server.url()).expect("a URL").get_multiplexed_async_connection().await;
        let redis = store([("REDIS_URL", &server.url())]);
        Self { redis, raw: Raw::One(raw.expect("Redis answers")), servers: Servers::One(Box::new(server)) }
    }

    async fn on_a_cluster() -> Self {
        let cluster = RedisCluster::start(RedisClusterOptions::default()).await.expect("the cluster starts");
        let authority = cluster.ca_file().expect("it speaks TLS");
        let root_cert = Some(std::fs::read(authority).expect("the certificate is there"));
        let raw = ClusterClientBuilder::new([cluster.url()])
            .certs(TlsCertificates { client_tls: None, root_cert })
            .build()
            .expect("a URL")
            .get_async_connection()
            .await;
        let redis = store([
            ("REDIS_URL", &cluster.url()),
            ("REDIS_CA_FILE", &authority.to_string_lossy()),
            ("REDIS_CLUSTER", "true"),
        ]);
        Self {
            redis,
            raw: Raw::Cluster(raw.expect("the cluster answers")),
            servers: Servers::Cluster(cluster),
        }
    }

    async fn query<T: redis::FromRedisValue>(&mut self, command: &[&str]) -> T {
        let (name, arguments) = command.split_first().expect("a command has a name");
        let mut command = redis::cmd(name);
        command.arg(arguments);
        match &mut self.raw {
            Raw::One(connection) => command.query_async(connection).await,
            Raw::Cluster(connection) => command.query_async(connection).await,
        }
        .expect("Redis answers")
    }

    async fn joined(&self, who: &Identity, connection: &str, resume: Resume) -> Joined {
        match self.redis.join(&room(), &ConnectionId::new(connection), who, None, &resume, 50).await {
            Ok(JoinOutcome::Joined(joined)) => joined,
            other => panic!("{other:?}"),
        }
    }

    async fn post(&self, who: &Identity, connection: &str, id: &str, known: Option<&str>) -> Posted {
        match self.redis.post(&room(), &ConnectionId::new(connection), &message(who, id, id), known).await {
            Ok(posted) => posted,
            other => panic!("{other:?}"),
        }
    }
}

impl Servers {
    async fn kill(&mut self) {
        match self {
            Self::One(server) => server.kill().await,
            Self::Cluster(cluster) => cluster.kill().await,
        }
        .expect("Redis is killed");
    }

    async fn snapshot(&self) -> Snapshot {
        match self {
            Self::One(server) => server.snapshot().await.map(Snapshot::One),
            Self::Cluster(cluster) => cluster.snapshot().await.map(Snapshot::Cluster),
        }
        .expect("is kept aside")
    }

    async fn restart_from(&mut self, snapshot: &Snapshot) {
        match (self, snapshot) {
            (Self::One(server), Snapshot::One(snapshot)) => server.restart_from(snapshot).await,
            (Self::Cluster(cluster), Snapshot::Cluster(snapshot)) => cluster.restart_from(snapshot).await,
            _ => panic!("a snapshot of one server is none of a cluster"),
        }
        .expect("Redis comes back");
    }

    async fn resume(&mut self) {
        match self {
            Self::One(server) => server.resume().await,
            Self::Cluster(cluster) => cluster.resume().await,
        }
        .expect("Redis comes back");
    }

    fn freeze(&mut self) {
        match self {
            Self::One(server) => server.freeze(),
            Self::Cluster(cluster) => cluster.freeze(),
        }
        .expect("Redis freezes");
    }

    fn thaw(&mut self) {
        match self {
            Self::One(server) => server.thaw(),
            Self::Cluster(cluster) => cluster.thaw(),
        }
        .expect("Redis thaws");
    }
}

/// A store as a function with these variables makes it.
fn store<const N: usize>(variables: [(&'static str, &str); N]) -> Redis {
    // Nobody else needs the table's values to live as long as the program.
    let variables = variables.map(|(name, value)| (name, &*value.to_owned().leak()));
    let section = Environment::of_table(variables).section::<RedisSection>();
    Redis::new(&section.expect("the section is whole")).expect("the store is made")
}

fn room() -> RoomId {
    RoomId::parse("general").expect("is an id")
}

fn person(number: u128, name: &str) -> Identity {
    let session = TokenHash::of(&format!("session of {name}"));
    Identity { user: UserId::new(Uuid::from_u128(number)), name: name.to_owned(), session }
}

fn ada() -> Identity {
    person(1, "Ada Lovelace")
}

fn bob() -> Identity {
    person(2, "Bob Smith")
}

fn message(who: &Identity, id: &str, text: &str) -> EventBody {
    let id = ClientId::parse(id).expect("is an id");
    EventBody {
        event: EventId::of_client(&room(), who.user, &id),
        from: who.author(),
        content: Content::Message {
            text: Text::parse(text).expect("is a text"),
            id: Some(id),
            reply_to: None,
        },
    }
}

fn rates(raw: &str) -> Rates {
    Rates::parse(raw).expect("is a rate")
}

fn texts(events: &[Event]) -> Vec<&str> {
    events.iter().map(text).collect()
}

fn text(event: &Event) -> &str {
    event.text.as_ref().expect("a message has a text").as_str()
}

fn milliseconds(position: Position) -> u64 {
    let position = position.to_string();
    let (milliseconds, _) = position.split_once('-').expect("a position has two parts");
    milliseconds.parse().expect("a number")
}

fn after(position: Position) -> Resume {
    Resume::After { position, generation: None }
}

/// Runs each of these on one server and on a cluster, in a test of its own.
macro_rules! on_one_server_and_on_a_cluster {
    ($($name:ident)*) => {
        mod on_one_server {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Store::on_one_server().await).await;
            })*
        }
        mod on_a_cluster {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Store::on_a_cluster().await).await;
            })*
        }
    };
}

on_one_server_and_on_a_cluster! {
    a_window_lets_exactly_its_count_through_and_tells_exactly_when_the_next_one_passes
    an_unlimited_rate_asks_nobody
    a_repeated_send_passes_the_throttle_uncounted_five_times
    a_user_has_so_many_connections_and_lost_ones_give_way_by_age
    ending_sessions_ends_theirs_and_no_others
    a_ticket_opens_once
    every_event_tells_the_position_before_it
    a_repeat_gets_the_first_place_and_the_first_text
    who_has_not_joined_neither_writes_nor_reads
    the_list_of_subscribers_is_sent_only_when_it_has_changed
    a_resume_gets_what_came_since_or_a_reset
    a_page_has_no_seam_in_either_direction
    a_log_that_lost_its_newest_part_gets_a_new_generation
    a_room_without_a_head_is_read_together_with_postgres_until_it_was_compared
    a_room_leaves_redis_whole_when_nobody_has_used_it_for_long
    a_generation_begins_where_postgres_knows_more_than_the_log
    who_joins_alone_leaves_nothing_to_be_told
    who_comes_to_a_new_room_at_the_same_time_has_nothing_to_read_again
    what_was_stored_and_the_log_lacks_was_forgotten
    a_log_that_has_skipped_something_had_lost_it
    what_postgres_has_elsewhere_is_taken_out_of_the_log
    a_client_that_uses_ids_again_does_not_make_its_room_read_again_all_the_time
    what_is_trimmed_is_read_from_postgres_from_then_on
    what_is_stored_of_a_room_that_is_not_there_is_told
    a_connection_whose_end_nobody_told_is_online_no_longer_than_it_can_live
    a_page_is_bounded_by_bytes_as_well_as_by_count
    a_user_with_two_connections_is_online_until_both_have_left
    nobody_is_online_without_a_subscription_also_if_redis_has_taken_them
    a_member_who_is_removed_during_a_join_does_not_get_in
    nobody_gets_into_a_room_that_has_ended
    a_connection_that_is_forgotten_leaves_no_key_behind
    ending_sessions_answers_their_connections_until_they_are_forgotten
    a_connection_that_was_forgotten_is_not_brought_back_by_its_last_frames
    a_join_beside_the_clean_up_of_its_connection_leaves_no_subscription
    news_are_told_only_of_rooms_that_were_joined
    a_redis_that_is_back_as_it_was_a_while_ago_resets_who_knows_more
    while_redis_is_away_everything_is_unavailable_and_works_again_after
    a_frozen_redis_is_unavailable_within_seconds
}

async fn a_window_lets_exactly_its_count_through_and_tells_exactly_when_the_next_one_passes(store: Store) {
    let rates = rates("5/second,1000/hour");
    for call in 0..5 {
        store
            .redis
            .throttle("login", "ada", &rates)
            .await
            .unwrap_or_else(|error| panic!("call {call}: {:?}", error.cause_chain()));
    }
    let refused = Instant::now();
    let Err(Error::Throttled { retry_after }) = store.redis.throttle("login", "ada", &rates).await else {
        panic!("the sixth call has passed")
    };
    assert!(retry_after <= Duration::from_secs(1), "{retry_after:?}");
    store.redis.throttle("login", "bob", &rates).await.expect("another subject has its own window");
    store.redis.throttle("signup", "ada", &rates).await.expect("another kind has its own window");
    while let Err(error) = store.redis.throttle("login", "ada", &rates).await {
        assert!(matches!(error, Error::Throttled { .. }), "{error}");
    }
    // A refused call counts for nothing, or the window would never have opened; and it opened not a moment early.
    assert!(retry_after <= refused.elapsed() + Duration::from_millis(5), "opened before {retry_after:?}");
    assert!(refused.elapsed() < Duration::from_secs(30));
}

async fn an_unlimited_rate_asks_nobody(mut store: Store) {
    store.servers.kill().await;
    store.redis.throttle("login", "ada", &rates("unlimited")).await.expect("passes without Redis");
}

async fn a_repeated_send_passes_the_throttle_uncounted_five_times(store: Store) {
    let (who, connection, rates) = (ada(), ConnectionId::new("c1="), rates("1/hour"));
    store.redis.record_connection(&connection, &who, 20).await.expect("is recorded");
    let event = Some(message(&who, "1", "hi").event);
    let admit = async |event| store.redis.admit(&connection, who.user, "logged", &rates, event).await;
    for _ in 0..6 {
        assert_eq!(admit(event).await.expect("passes"), Admission::Admitted);
    }
    assert!(matches!(admit(event).await, Err(Error::Throttled { .. })), "a seventh passes");
    assert!(matches!(admit(None).await, Err(Error::Throttled { .. })), "another frame passes");
}

async fn a_user_has_so_many_connections_and_lost_ones_give_way_by_age(mut store: Store) {
    let who = ada();
    for connection in ["c1=", "c2=", "c2="] {
        store.redis.record_connection(&ConnectionId::new(connection), &who, 2).await.expect("is recorded");
    }
    let third = store.redis.record_connection(&ConnectionId::new("c3="), &who, 2).await;
    assert!(matches!(third, Err(Error::TooManyConnections { most: 2 })), "{third:?}");
    let key = format!("user:{{{}}}:connections", who.user);
    let _: u64 = store.query(&["HSET", &key, "c1=", "00ff 1000000000"]).await;
    store
        .redis
        .record_connection(&ConnectionId::new("c3="), &who, 2)
        .await
        .expect("the lost one has given way");
    let mut left: Vec<String> = store.query(&["HKEYS", &key]).await;
    left.sort();
    assert_eq!(left, ["c2=", "c3="]);
}

async fn ending_sessions_ends_theirs_and_no_others(store: Store) {
    let (phone, laptop) = (person(1, "phone"), person(1, "laptop"));
    for (connection, who) in [("p1=", &phone), ("p2=", &phone), ("l1=", &laptop)] {
        store.redis.record_connection(&ConnectionId::new(connection), who, 20).await.expect("is recorded");
    }
    let unlimited = rates("unlimited");
    let admit = async |connection: &str| {
        let connection = ConnectionId::new(connection);
        store.redis.admit(&connection, phone.user, "other", &unlimited, None).await.expect("answers")
    };
    let none = TokenHash::of("none");
    assert_eq!(ended(&store, &[none]).await, [""; 0]);
    assert_eq!(admit("p1=").await, Admission::Admitted);
    assert_eq!(ended(&store, &[phone.session]).await, ["p1=", "p2="]);
    assert_eq!((admit("p1=").await, admit("p2=").await), (Admission::Ended, Admission::Ended));
    assert_eq!(admit("l1=").await, Admission::Admitted);
    assert_eq!(admit("other=").await, Admission::Unknown);
    assert_eq!(ended(&store, &[none, laptop.session]).await, ["l1="]);
    assert_eq!(admit("l1=").await, Admission::Ended);
    assert_eq!(ended(&store, &[phone.session, laptop.session]).await, ["l1=", "p1=", "p2="]);
}

/// Ends sessions of Ada's: their connections, sorted.
async fn ended(store: &Store, sessions: &[TokenHash]) -> Vec<String> {
    let ended = store.redis.end_sessions(ada().user, sessions).await.expect("ends");
    let mut ended: Vec<_> = ended.iter().map(|connection| connection.as_str().to_owned()).collect();
    ended.sort();
    ended
}

async fn a_ticket_opens_once(mut store: Store) {
    let (ticket, who) = (TokenHash::of("ticket"), ada());
    store.redis.issue_ticket(&ticket, &who).await.expect("is issued");
    let left: u64 = store.query(&["TTL", &format!("ticket:{{{ticket}}}")]).await;
    assert!((1..=30).contains(&left), "{left}");
    assert_eq!(store.redis.redeem_ticket(&ticket).await.expect("answers"), Some(who));
    assert_eq!(store.redis.redeem_ticket(&ticket).await.expect("answers"), None);
}

async fn every_event_tells_the_position_before_it(store: Store) {
    store.joined(&ada(), "a=", Resume::Newest).await;
    let mut previous = None;
    for id in ["1", "2", "3"] {
        let posted = store.post(&ada(), "a=", id, None).await;
        assert_eq!(posted.previous, previous);
        assert!(previous < Some(posted.position));
        previous = Some(posted.position);
    }
    let joined = store.joined(&bob(), "b=", Resume::Newest).await;
    assert_eq!(joined.head.last, previous);
    assert_eq!(texts(&joined.events), ["1", "2", "3"]);
    assert_eq!(joined.events[0].previous, None);
    assert_eq!(joined.events[2].previous, Some(joined.events[1].position));
    assert_eq!(joined.online, 2);
}

async fn a_repeat_gets_the_first_place_and_the_first_text(store: Store) {
    store.joined(&ada(), "a=", Resume::Newest).await;
    store.post(&ada(), "a=", "0", None).await;
    let first = store.post(&ada(), "a=", "1", None).await;
    store.post(&ada(), "a=", "2", None).await;
    let other_text = message(&ada(), "1", "another text");
    let repeat =
        store.redis.post(&room(), &ConnectionId::new("a="), &other_text, None).await.expect("has joined");
    assert_eq!((repeat.position, repeat.previous), (first.position, first.previous));
    let body = repeat.repeated.expect("is a repeat").expect("is still in the log");
    assert_eq!(body, message(&ada(), "1", "1"));
    let page = store.redis.page(&room(), Cursor::Newest, 50).await.expect("is read");
    assert_eq!(texts(&page.events), ["0", "1", "2"]);
}

async fn who_has_not_joined_neither_writes_nor_reads(store: Store) {
    let connection = ConnectionId::new("a=");
    let post = store.redis.post(&room(), &connection, &message(&ada(), "1", "hi"), None).await;
    assert!(matches!(post, Err(Error::NotJoined)), "{post:?}");
    let page = store.redis.page_for(&connection, &room(), Cursor::Newest, 50).await;
    assert!(matches!(page, Err(Error::NotJoined)), "{page:?}");
}

async fn the_list_of_subscribers_is_sent_only_when_it_has_changed(store: Store) {
    store.joined(&ada(), "a=", Resume::Newest).await;
    store.joined(&bob(), "b=", Resume::Newest).await;
    let first = store.post(&ada(), "a=", "1", None).await;
    let SubscriberChange::All(subscribers) = first.subscribers else { panic!("no list") };
    assert_eq!(subscribers.len(), 2);
    // Joining again changes nothing for the others.
    store.joined(&bob(), "b=", Resume::Newest).await;
    let second = store.post(&ada(), "a=", "2", Some(&first.version)).await;
    assert!(matches!(second.subscribers, SubscriberChange::None));
    store.redis.leave(&room(), &ConnectionId::new("b=")).await.expect("leaves");
    let third = store.post(&ada(), "a=", "3", Some(&first.version)).await;
    let SubscriberChange::All(subscribers) = third.subscribers else { panic!("no list") };
    assert_eq!(subscribers.iter().map(|s| s.connection.as_str()).collect::<Vec<_>>(), ["a="]);
}

async fn a_resume_gets_what_came_since_or_a_reset(store: Store) {
    let start = store.joined(&ada(), "a=", Resume::Newest).await;
    let mut positions = Vec::new();
    for number in 0..120 {
        positions.push(store.post(&ada(), "a=", &number.to_string(), None).await.position);
    }
    let resumed = store.joined(&ada(), "a=", after(positions[99])).await;
    assert_eq!((resumed.events.len(), resumed.reset, resumed.more), (20, false, false));
    let resumed = store.joined(&ada(), "a=", after(Position::BEGINNING)).await;
    assert_eq!((resumed.events.len(), resumed.reset, resumed.more), (50, false, true));
    assert_eq!(text(&resumed.events[0]), "0");
    let resumed = store.joined(&ada(), "a=", after(positions[119])).await;
    assert_eq!((resumed.events.len(), resumed.reset, resumed.more), (0, false, false));

    let future = Position::parse("18446744073709551615-18446744073709551615").expect("is a position");
    let resumed = store.joined(&ada(), "a=", after(future)).await;
    assert_eq!((resumed.events.len(), resumed.reset, resumed.more), (50, true, true));
    assert_eq!(text(&resumed.events[49]), "119");
    for (generation, reset) in [(start.head.generation, false), (Generation::from_random(7), true)] {
        let resume = Resume::After { position: positions[118], generation: Some(generation) };
        assert_eq!(store.joined(&ada(), "a=", resume).await.reset, reset);
    }
}

async fn a_page_has_no_seam_in_either_direction(store: Store) {
    store.joined(&ada(), "a=", Resume::Newest).await;
    for number in 0..25 {
        store.post(&ada(), "a=", &number.to_string(), None).await;
    }
    let expected: Vec<String> = (0..25).map(|number| number.to_string()).collect();

    let mut back = Vec::new();
    let mut cursor = Cursor::Newest;
    loop {
        let page = store.redis.page(&room(), cursor, 10).await.expect("is read");
        assert_eq!(page.newer, !back.is_empty());
        back.splice(0..0, page.events.iter().map(|event| text(event).to_owned()));
        cursor = Cursor::Before(page.events[0].position);
        if !page.older {
            break;
        }
    }
    assert_eq!(back, expected);

    let mut forth = Vec::new();
    let mut cursor = Cursor::After(Position::BEGINNING);
    loop {
        let page = store.redis.page(&room(), cursor, 10).await.expect("is read");
        assert_eq!(page.older, !forth.is_empty());
        forth.extend(page.events.iter().map(|event| text(event).to_owned()));
        cursor = Cursor::After(page.events.last().expect("not empty").position);
        if !page.newer {
            break;
        }
    }
    assert_eq!(forth, expected);

    let largest = Position::parse("18446744073709551615-18446744073709551615").expect("is a position");
    for cursor in [Cursor::Before(Position::BEGINNING), Cursor::After(largest)] {
        assert!(store.redis.page(&room(), cursor, 10).await.expect("is read").events.is_empty());
    }
}

async fn a_log_that_lost_its_newest_part_gets_a_new_generation(mut store: Store) {
    let first = store.joined(&ada(), "a=", Resume::Newest).await;
    assert!(!first.forgotten, "a new room has nothing to forget");
    store.post(&ada(), "a=", "1", None).await;
    let head: Vec<String> = store.query(&["HGETALL", "room:{general}:head"]).await;
    let lost = store.post(&ada(), "a=", "2", None).await;
    assert_eq!(lost.generation, first.head.generation);

    // The head of a snapshot of some moments ago.
    let mut restore = vec!["HSET", "room:{general}:head"];
    restore.extend(head.iter().map(String::as_str));
    let _: u64 = store.query(&restore).await;
    let found = store.post(&ada(), "a=", "3", None).await;
    assert!(found.forgotten);
    assert_ne!(found.generation, first.head.generation);
    assert_eq!(found.previous, Some(lost.position), "what is there stays in order");

    // The whole log.
    let _: u64 = store.query(&["DEL", "room:{general}:log"]).await;
    let resume = Resume::After { position: found.position, generation: Some(found.generation.clone()) };
    let joined = store.joined(&ada(), "a=", resume).await;
    assert!(joined.forgotten && joined.reset);
    assert_eq!(joined.head.since, Position::END, "nobody has asked Postgres yet");
    assert_ne!(joined.head.generation, found.generation);
    assert!(
        store.joined(&ada(), "a=", Resume::Newest).await.forgotten,
        "nobody has noted yet that all were told"
    );
    store.redis.note_told(&room(), &found.generation).await.expect("is noted");
    assert!(
        store.joined(&ada(), "a=", Resume::Newest).await.forgotten,
        "they were told of another generation"
    );
    store.redis.note_told(&room(), &joined.head.generation).await.expect("is noted");
    assert!(!store.joined(&ada(), "a=", Resume::Newest).await.forgotten);
}

async fn a_room_without_a_head_is_read_together_with_postgres_until_it_was_compared(mut store: Store) {
    store.joined(&ada(), "a=", Resume::Newest).await;
    store.post(&ada(), "a=", "1", None).await;
    let _: u64 = store.query(&["DEL", "room:{general}:head"]).await;
    let post = store.redis.post(&room(), &ConnectionId::new("a="), &message(&ada(), "2", "2"), None).await;
    assert!(matches!(post, Err(Error::NotJoined)), "nobody knows what went before: {post:?}");
    let page = store.redis.page(&room(), Cursor::Newest, 50).await.expect("is read");
    assert!(page.head.is_none());
    assert_eq!(texts(&page.events), ["1"]);
    let joined = store.joined(&ada(), "a=", Resume::Newest).await;
    assert_eq!(joined.head.since, Position::END);
    assert!(joined.head.disagrees_with(&Known { newest: Position::BEGINNING, generations: 0 }));
}

async fn a_room_leaves_redis_whole_when_nobody_has_used_it_for_long(mut store: Store) {
    store.joined(&ada(), "a=", Resume::Newest).await;
    store.post(&ada(), "a=", "1", None).await;
    for key in ["head", "log", "subscribers", "online"] {
        let seconds: i64 = store.query(&["TTL", &format!("room:{{general}}:{key}")]).await;
        let month = 30 * 24 * 60 * 60;
        assert!((month - 60..=month).contains(&seconds), "{key} stays for {seconds} s");
    }
}

fn position(milliseconds: u64) -> Position {
    Position::parse(&format!("{milliseconds}-0")).expect("is a position")
}

const NOTHING: Known = Known { newest: Position::BEGINNING, generations: 0 };

impl Store {
    /// Joins as `message` does, in a room of which Postgres knows this.
    async fn settled(&self, who: &Identity, connection: &str, known: Known) -> Joined {
        for _ in 0..3 {
            let joined = self.joined(who, connection, Resume::Newest).await;
            if !joined.head.disagrees_with(&known) {
                return joined;
            }
            let asking = ConnectionId::new(connection);
            self.redis.compare(&room(), &joined.head, &known, &asking).await.expect("is compared");
        }
        panic!("Redis and Postgres do not come to agree");
    }

    async fn settle(&self, known: Known, events: Vec<Settlement>) -> Settled {
        self.redis.settle(&room(), &StoredRoom { known, lost: None, events }).await.expect("is settled")
    }

    async fn now(&mut self) -> u64 {
        let (seconds, _): (u64, u64) = self.query(&["TIME"]).await;
        seconds
    }

    async fn events(&self) -> Vec<String> {
        let page = self.redis.page(&room(), Cursor::Newest, 50).await.expect("is read");
        texts(&page.events).into_iter().map(str::to_owned).collect()
    }
}

/// What the archive has stored just where the log has it.
fn stored(who: &Identity, id: &str, position: Position) -> Settlement {
    let event = message(who, id, id).event;
    Settlement {
        logged: event,
        stored: event,
        position,
        places: vec![position],
        gone: false,
        unsettled: true,
    }
}

async fn a_generation_begins_where_postgres_knows_more_than_the_log(store: Store) {
    let first = store.settled(&ada(), "a=", NOTHING).await;
    assert_eq!((first.head.since, first.head.generations), (Position::BEGINNING, 1));
    assert!(!first.forgotten, "there is nobody else who has to be told");
    store.settled(&bob(), "b=", NOTHING).await;
    let posted = store.post(&ada(), "a=", "1", None).await;
    let newest = position(milliseconds(posted.position) + 1_000_000);
    for (known, since) in [
        (Known { generations: 2, ..NOTHING }, Position::BEGINNING),
        (Known { newest: position(5), generations: 4 }, position(5)),
        (Known { newest, generations: 5 }, newest),
    ] {
        let before = store.joined(&ada(), "a=", Resume::Newest).await.head;
        assert!(before.disagrees_with(&known), "{before:?} {known:?}");
        let joined = store.settled(&ada(), "a=", known).await;
        assert_ne!(joined.head.generation, before.generation);
        assert_eq!(joined.head.since, since);
        assert!(known.generations < joined.head.generations && joined.forgotten);
        // A head that somebody else has changed meanwhile is left to them.
        let compared = store.redis.compare(&room(), &before, &known, &ConnectionId::new("a=")).await;
        assert_eq!(compared.expect("is compared"), Compared::Unchanged);
    }
    let after = store.post(&ada(), "a=", "2", None).await;
    assert!(newest < after.position, "no place is given twice");
    assert_eq!(after.previous, Some(newest));
}

async fn who_joins_alone_leaves_nothing_to_be_told(mut store: Store) {
    store.settled(&ada(), "a=", NOTHING).await;
    let posted = store.post(&ada(), "a=", "1", None).await.position;
    let _: u64 = store.query(&["DEL", "room:{general}:log"]).await;
    let known = Known { newest: posted, generations: 7 };
    store.settled(&ada(), "a=", known).await;
    assert!(!store.joined(&ada(), "a=", Resume::Newest).await.forgotten);
    assert!(!store.post(&ada(), "a=", "2", None).await.forgotten);
}

async fn who_comes_to_a_new_room_at_the_same_time_has_nothing_to_read_again(store: Store) {
    let (at_ada, at_bob) = (ConnectionId::new("a="), ConnectionId::new("b="));
    let first = store.joined(&ada(), at_ada.as_str(), Resume::Newest).await;
    store.joined(&bob(), at_bob.as_str(), Resume::Newest).await;
    store.redis.compare(&room(), &first.head, &NOTHING, &at_ada).await.expect("is compared");
    for (who, connection) in [(ada(), &at_ada), (bob(), &at_bob)] {
        let joined = store.joined(&who, connection.as_str(), Resume::Newest).await;
        assert!(!joined.forgotten && !joined.head.disagrees_with(&Known { generations: 1, ..NOTHING }));
    }
}

async fn what_was_stored_and_the_log_lacks_was_forgotten(store: Store) {
    let start = store.settled(&ada(), "a=", NOTHING).await;
    let known = Known { generations: 1, ..NOTHING };
    let posted = store.post(&ada(), "a=", "1", None).await.position;
    assert_eq!(
        store.settle(known, vec![stored(&ada(), "1", posted)]).await,
        Settled::Agrees { length: 1, waits: false }
    );

    // Its text is deleted: nobody has to find it.
    let deleted = Settlement { gone: true, ..stored(&ada(), "2", position(5)) };
    assert_eq!(store.settle(known, vec![deleted]).await, Settled::Agrees { length: 1, waits: false });

    let lost = position(milliseconds(posted) + 1_000_000);
    let settled = store.settle(known, vec![stored(&ada(), "2", lost), stored(&ada(), "1", posted)]).await;
    let Settled::Begun { length: 1, generation, generations: 2, .. } = settled else { panic!("{settled:?}") };
    assert_ne!(generation, start.head.generation);
    let joined = store.joined(&bob(), "b=", Resume::Newest).await;
    assert!(joined.forgotten, "the subscribers have to be told");
    assert_eq!((joined.head.generation, joined.head.since, joined.head.last), (generation, lost, Some(lost)));

    // It has been looked for: up to `since` Postgres is read as well.
    let known = Known { newest: lost, generations: 2 };
    let again = Settlement { unsettled: false, ..stored(&ada(), "2", lost) };
    assert_eq!(store.settle(known, vec![again]).await, Settled::Agrees { length: 1, waits: false });
    // But who stored it may have died before looking.
    assert!(matches!(store.settle(known, vec![stored(&ada(), "2", lost)]).await, Settled::Begun { .. }));
}

async fn a_log_that_has_skipped_something_had_lost_it(store: Store) {
    store.settled(&ada(), "a=", NOTHING).await;
    let posted = store.post(&ada(), "a=", "1", None).await.position;
    let known = Known { newest: posted, generations: 1 };
    let events = vec![stored(&ada(), "1", posted)];
    let skipped = StoredRoom { known, lost: Some(position(5)), events };
    let settled = store.redis.settle(&room(), &skipped).await.expect("is settled");
    assert!(matches!(settled, Settled::Begun { generations: 2, .. }), "{settled:?}");
    assert_eq!(store.joined(&ada(), "a=", Resume::Newest).await.head.since, position(5));
    let known = Known { newest: posted, generations: 2 };
    let settled = store.redis.settle(&room(), &StoredRoom { known, ..skipped }).await.expect("is settled");
    assert_eq!(settled, Settled::Agrees { length: 1, waits: false }, "a repeat finds nothing new");
}

async fn what_postgres_has_elsewhere_is_taken_out_of_the_log(store: Store) {
    store.settled(&ada(), "a=", NOTHING).await;
    let known = Known { generations: 1, ..NOTHING };
    let first = store.post(&ada(), "a=", "1", None).await.position;
    let second = store.post(&ada(), "a=", "2", None).await.position;
    let third = store.post(&ada(), "a=", "3", None).await.position;

    // The record of the first place comes alone; where the log has the repeat is known from `sent`.
    let moved = stored(&ada(), "2", position(7));
    let settled = store.settle(known, vec![moved]).await;
    assert!(matches!(settled, Settled::Begun { .. }), "{settled:?}");
    assert!(second <= store.joined(&ada(), "a=", Resume::Newest).await.head.since);
    assert_eq!(store.events().await, ["1", "3"]);
    let repeat = store.post(&ada(), "a=", "2", None).await;
    assert_eq!((repeat.position, repeat.repeated), (position(7), Some(None)), "its ack tells its place");

    // Under another name, for the client has used an id again.
    let renamed = Settlement { stored: message(&bob(), "x", "x").event, ..stored(&ada(), "3", third) };
    assert!(matches!(store.settle(known, vec![renamed]).await, Settled::Begun { .. }));
    assert_eq!(store.events().await, ["1"]);

    let deleted = Settlement { gone: true, ..stored(&ada(), "1", first) };
    store.settle(known, vec![deleted]).await;
    assert!(store.events().await.is_empty());
}

async fn a_client_that_uses_ids_again_does_not_make_its_room_read_again_all_the_time(mut store: Store) {
    store.settled(&ada(), "a=", NOTHING).await;
    let known = Known { generations: 1, ..NOTHING };
    let renamed = async |id: &str| {
        let place = store.post(&ada(), "a=", id, None).await.position;
        Settlement { stored: message(&bob(), id, id).event, ..stored(&ada(), id, place) }
    };
    let (first, second) = (renamed("1").await, renamed("2").await);
    assert!(matches!(store.settle(known, vec![first]).await, Settled::Begun { waits: false, .. }));
    let known = Known { generations: 2, ..NOTHING };
    let settled = store.settle(known, vec![second.clone()]).await;
    assert_eq!(settled, Settled::Agrees { length: 1, waits: true }, "it comes again");
    let minute_ago = store.now().await - 60;
    let _: u64 = store.query(&["HSET", "room:{general}:head", "renamed", &minute_ago.to_string()]).await;
    assert!(matches!(store.settle(known, vec![second]).await, Settled::Begun { waits: false, .. }));
    assert!(store.events().await.is_empty());
}

async fn what_is_trimmed_is_read_from_postgres_from_then_on(store: Store) {
    store.settled(&ada(), "a=", NOTHING).await;
    let mut posted = Vec::new();
    for id in ["1", "2", "3"] {
        posted.push(store.post(&ada(), "a=", id, None).await.position);
    }
    let event = |id| message(&ada(), id, id).event;
    let oldest = store.redis.oldest(&room(), Position::BEGINNING, 2).await.expect("is read");
    let read = oldest.iter().map(|entry| match entry {
        Entry::Event(record) => (record.position, record.previous, record.event.event),
        Entry::Unreadable(position) => panic!("{position}"),
    });
    let expected = [(posted[0], None, event("1")), (posted[1], Some(posted[0]), event("2"))];
    assert_eq!(read.collect::<Vec<_>>(), expected);

    // The third is not what stands at the place of the second, and stays.
    let trim = [(posted[0], event("1")), (posted[1], event("3"))];
    assert_eq!(store.redis.trim(&room(), &trim).await.expect("is trimmed"), 1);
    assert_eq!(store.events().await, ["2", "3"]);
    let joined = store.joined(&ada(), "a=", Resume::Newest).await;
    assert_eq!((joined.head.since, joined.head.last), (posted[0], Some(posted[2])));
    assert!(!joined.forgotten, "nothing was forgotten");
    assert_eq!(store.redis.trim(&room(), &trim).await.expect("is trimmed"), 0);
}

async fn what_is_stored_of_a_room_that_is_not_there_is_told(store: Store) {
    let known = Known { generations: 3, ..NOTHING };
    let seen = Settlement { unsettled: false, ..stored(&ada(), "1", position(9)) };
    assert_eq!(store.settle(known, vec![seen]).await, Settled::Absent { generations: 3 });
    let unseen = stored(&ada(), "1", position(9));
    assert_eq!(store.settle(known, vec![unseen]).await, Settled::Absent { generations: 4 });
}

async fn a_connection_whose_end_nobody_told_is_online_no_longer_than_it_can_live(mut store: Store) {
    store.joined(&ada(), "a=", Resume::Newest).await;
    store.joined(&bob(), "b=", Resume::Newest).await;
    let ghost = format!("{} 1000000000", bob().user);
    let _: u64 = store.query(&["HSET", "room:{general}:subscribers", "b=", &ghost]).await;
    let _: u64 = store.query(&["HDEL", "room:{general}:head", "swept"]).await;
    let (users, count) = store.redis.online(&room()).await.expect("answers");
    assert_eq!((users.len(), count), (1, 1));
    let left: Vec<String> = store.query(&["HKEYS", "room:{general}:subscribers"]).await;
    assert_eq!(left, ["a="]);
}

async fn a_page_is_bounded_by_bytes_as_well_as_by_count(store: Store) {
    store.joined(&ada(), "a=", Resume::Newest).await;
    let connection = ConnectionId::new("a=");
    for number in 0..40 {
        let text = format!("{number} {}", "x".repeat(3_900));
        let body = message(&ada(), &number.to_string(), &text);
        store.redis.post(&room(), &connection, &body, None).await.expect("is posted");
    }
    let page = store.redis.page_for(&connection, &room(), Cursor::Newest, 200).await.expect("is read");
    assert!((20..40).contains(&page.events.len()), "{}", page.events.len());
    assert!(page.older && !page.newer);
    assert!(text(page.events.last().expect("not empty")).starts_with("39 "));
    let resumed = store.joined(&ada(), "a=", after(Position::BEGINNING)).await;
    assert!(resumed.more && text(&resumed.events[0]).starts_with("0 "));
}

async fn a_user_with_two_connections_is_online_until_both_have_left(store: Store) {
    for (who, connection) in [(ada(), "a1="), (ada(), "a2="), (bob(), "b=")] {
        store.joined(&who, connection, Resume::Newest).await;
        store.joined(&who, connection, Resume::Newest).await;
    }
    let names = async || {
        let (users, count) = store.redis.online(&room()).await.expect("answers");
        (users.into_iter().map(|user| user.name).collect::<Vec<_>>(), count)
    };
    let both = (vec!["Ada Lovelace".to_owned(), "Bob Smith".to_owned()], 2);
    assert_eq!(names().await, both);
    store.redis.leave(&room(), &ConnectionId::new("a1=")).await.expect("leaves");
    store.redis.leave(&room(), &ConnectionId::new("a1=")).await.expect("leaves again");
    assert_eq!(names().await, both);
    store.redis.forget_connection(&ConnectionId::new("a2="), ada().user).await.expect("is forgotten");
    assert_eq!(names().await, (vec!["Bob Smith".to_owned()], 1));
}

async fn nobody_is_online_without_a_subscription_also_if_redis_has_taken_them(mut store: Store) {
    for (who, connection) in [(ada(), "a="), (bob(), "b=")] {
        store.joined(&who, connection, Resume::Newest).await;
    }
    let _: u64 = store.query(&["DEL", "room:{general}:subscribers"]).await;
    assert_eq!(store.joined(&ada(), "a=", Resume::Newest).await.online, 1);
    assert_eq!(store.joined(&bob(), "b=", Resume::Newest).await.online, 2);
    store.redis.leave(&room(), &ConnectionId::new("b=")).await.expect("leaves");
    assert_eq!(store.redis.online(&room()).await.expect("answers").1, 1);
}

async fn a_member_who_is_removed_during_a_join_does_not_get_in(store: Store) {
    let (who, connection) = (ada(), ConnectionId::new("a="));
    let join = async |access: &str| {
        store
            .redis
            .join(&room(), &connection, &who, Some(access), &Resume::Newest, 50)
            .await
            .expect("answers")
    };
    let access = store.redis.access_version(&room()).await.expect("answers");
    store.redis.expel(&room(), who.user).await.expect("is expelled");
    assert!(matches!(join(&access).await, JoinOutcome::Again));
    let access = store.redis.access_version(&room()).await.expect("answers");
    assert!(matches!(join(&access).await, JoinOutcome::Joined(_)));
    store.redis.expel(&room(), who.user).await.expect("is expelled");
    let post = store.redis.post(&room(), &connection, &message(&who, "1", "hi"), None).await;
    assert!(matches!(post, Err(Error::NotJoined)), "{post:?}");
}

async fn nobody_gets_into_a_room_that_has_ended(store: Store) {
    store.joined(&ada(), "a=", Resume::Newest).await;
    store.post(&ada(), "a=", "1", None).await;
    store.redis.end_room(&room()).await.expect("ends");
    store.redis.end_room(&room()).await.expect("ends again");
    let connection = ConnectionId::new("a=");
    let join = store.redis.join(&room(), &connection, &ada(), None, &Resume::Newest, 50).await;
    assert!(matches!(join, Ok(JoinOutcome::Ended)), "{join:?}");
    assert!(store.redis.page(&room(), Cursor::Newest, 50).await.expect("is read").events.is_empty());
}

async fn a_connection_that_is_forgotten_leaves_no_key_behind(mut store: Store) {
    let connection = ConnectionId::new("a=");
    store.redis.record_connection(&connection, &ada(), 20).await.expect("is recorded");
    store.joined(&ada(), "a=", Resume::Newest).await;
    store.redis.forget_connection(&connection, ada().user).await.expect("is forgotten");
    store.redis.forget_connection(&connection, ada().user).await.expect("is forgotten again");
    let mut keys: Vec<String> = store.query(&["KEYS", "*"]).await;
    // For some minutes it is remembered as gone, so that none of its last frames brings it back.
    keys.retain(|key| !key.contains(":gone:"));
    assert_eq!(keys, ["room:{general}:head"]);
    let back = store.redis.record_connection(&connection, &ada(), 20).await;
    assert!(matches!(back, Err(Error::Unauthorized(_))), "{back:?}");
}

async fn ending_sessions_answers_their_connections_until_they_are_forgotten(store: Store) {
    let (who, unlimited) = (ada(), rates("unlimited"));
    let connections = [ConnectionId::new("c1="), ConnectionId::new("c2=")];
    for connection in &connections {
        store.redis.record_connection(connection, &who, 20).await.expect("is recorded");
    }
    for _ in 0..3 {
        assert_eq!(
            ended(&store, &[who.session]).await,
            ["c1=", "c2="],
            "the one who asked before may not have got to them"
        );
        for connection in &connections {
            let admission = store.redis.admit(connection, who.user, "other", &unlimited, None).await;
            assert_eq!(admission.expect("answers"), Admission::Ended);
            assert!(!store.redis.is_connected(connection, who.user).await.expect("answers"));
            // A frame that was under way when its session ended.
            store.redis.record_connection(connection, &who, 20).await.expect("answers");
        }
    }
    store.redis.forget_connection(&connections[0], who.user).await.expect("is forgotten");
    assert_eq!(ended(&store, &[who.session]).await, ["c2="]);
    store.redis.forget_connection(&connections[1], who.user).await.expect("is forgotten");
    assert_eq!(ended(&store, &[who.session]).await, [""; 0]);
}

async fn a_connection_that_was_forgotten_is_not_brought_back_by_its_last_frames(store: Store) {
    let (who, connection) = (ada(), ConnectionId::new("a="));
    store.redis.record_connection(&connection, &who, 20).await.expect("is recorded");
    store.redis.forget_connection(&connection, who.user).await.expect("is forgotten");
    let back = store.redis.record_connection(&connection, &who, 20).await;
    assert!(matches!(back, Err(Error::Unauthorized(_))), "{back:?}");
    let admission = store.redis.admit(&connection, who.user, "other", &rates("unlimited"), None).await;
    assert_eq!(admission.expect("answers"), Admission::Unknown);
    store.redis.record_connection(&ConnectionId::new("b="), &who, 20).await.expect("another one is");
}

async fn a_join_beside_the_clean_up_of_its_connection_leaves_no_subscription(mut store: Store) {
    let who = ada();
    for round in 0..40 {
        let connection = ConnectionId::new(&format!("{round}="));
        store.redis.record_connection(&connection, &who, 20).await.expect("is recorded");
        // As the function `message` joins.
        let join = async {
            for _ in 0..round % 8 {
                store.redis.ping().await.expect("answers");
            }
            store.joined(&who, connection.as_str(), Resume::Newest).await;
            if !store.redis.is_connected(&connection, who.user).await.expect("answers") {
                store.redis.leave(&room(), &connection).await.expect("leaves");
            }
        };
        let (forgotten, ()) = tokio::join!(store.redis.forget_connection(&connection, who.user), join);
        forgotten.expect("is forgotten");
        let left: Vec<String> = store.query(&["HKEYS", "room:{general}:subscribers"]).await;
        assert_eq!(left, [""; 0], "round {round}");
        let left: u64 = store.query(&["HLEN", "room:{general}:online"]).await;
        assert_eq!(left, 0, "round {round}");
    }
}

async fn news_are_told_only_of_rooms_that_were_joined(store: Store) {
    let (joined, other) = (room(), RoomId::parse("other").expect("is an id"));
    let connection = ConnectionId::new("a=");
    store.joined(&ada(), "a=", Resume::Newest).await;
    let rooms = [joined, other];
    let last = async || {
        let news = store.redis.peek(&connection, &rooms).await.expect("answers");
        news.into_iter().map(|news| news.map(|news| news.last)).collect::<Vec<_>>()
    };
    assert_eq!(last().await, [Some(None), None]);
    let posted = store.post(&ada(), "a=", "1", None).await;
    assert_eq!(last().await, [Some(Some(posted.position)), None]);
    let summaries = store.redis.room_summaries(&rooms).await.expect("answers");
    assert_eq!(summaries[0].last_message.as_ref().map(text), Some("1"));
    assert_eq!((summaries[0].online, summaries[1].online), (1, 0));
    assert!(summaries[1].last_message.is_none());
}

async fn a_redis_that_is_back_as_it_was_a_while_ago_resets_who_knows_more(mut store: Store) {
    store.joined(&ada(), "a=", Resume::Newest).await;
    let kept = store.post(&ada(), "a=", "1", None).await.position;
    let snapshot = store.servers.snapshot().await;
    let lost = store.post(&ada(), "a=", "2", None).await.position;
    store.servers.restart_from(&snapshot).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = store.redis.ping().await {
        assert!(matches!(error, Error::Unavailable { .. }) && Instant::now() < deadline, "{error}");
    }
    let joined = store.joined(&ada(), "a=", after(lost)).await;
    assert!(joined.reset, "a position that nobody has");
    assert_eq!(texts(&joined.events), ["1"]);
    assert_eq!(store.post(&ada(), "a=", "1", None).await.position, kept, "it was not lost");
    let again = store.post(&ada(), "a=", "2", None).await.position;
    assert!(lost < again, "what was lost gets a place of its own");
}

async fn while_redis_is_away_everything_is_unavailable_and_works_again_after(mut store: Store) {
    store.redis.ping().await.expect("answers");
    store.servers.kill().await;
    for _ in 0..3 {
        let answer = store.redis.throttle("login", "ada", &rates("5/second")).await;
        assert!(matches!(answer, Err(Error::Unavailable { .. })), "{answer:?}");
    }
    store.servers.resume().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = store.redis.throttle("login", "ada", &rates("5/second")).await {
        assert!(matches!(error, Error::Unavailable { .. }) && Instant::now() < deadline, "{error}");
    }
    // The scripts are gone with the old server; they are sent again by themselves.
    store.joined(&ada(), "a=", Resume::Newest).await;
}

async fn a_frozen_redis_is_unavailable_within_seconds(mut store: Store) {
    store.redis.ping().await.expect("answers");
    store.servers.freeze();
    let answer = store.redis.ping().await;
    store.servers.thaw();
    assert!(matches!(answer, Err(Error::Unavailable { .. })), "{answer:?}");
}

#[tokio::test]
async fn redis_is_spoken_to_over_tls_with_a_certificate_that_was_checked() {
    let server =
        servers::Redis::start(RedisOptions { tls: true, ..RedisOptions::default() }).await.expect("starts");
    let authority = server.ca_file().expect("it speaks TLS").to_string_lossy().into_owned();
    let redis = store([("REDIS_URL", &server.url()), ("REDIS_CA_FILE", &authority)]);
    redis.ping().await.expect("answers over TLS");
    redis.throttle("login", "ada", &rates("5/second")).await.expect("scripts run over TLS");

    let strangers = store([("REDIS_URL", &server.url())]);
    let answer = strangers.ping().await;
    assert!(matches!(answer, Err(Error::Unavailable { .. })), "an unknown authority was trusted: {answer:?}");
}
