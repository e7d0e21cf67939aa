-- People, and the sessions by which they are known.

create table users (
    -- UUIDv7, made by the function: new rows go to the end of the index, and the id tells nothing about the person.
    id uuid constraint users_pkey primary key,
    first_name text not null constraint users_first_name_length check (char_length(first_name) between 1 and 100),
    last_name text not null constraint users_last_name_length check (char_length(last_name) between 1 and 100),
    -- As it was typed. RFC 5321 allows 254 octets.
    email text not null constraint users_email_length check (octet_length(email) between 3 and 254),
    -- A PHC string. Other algorithms may come; a password in clear must never get here.
    password_hash text not null constraint users_password_hash_argon2id check (password_hash like '$argon2id$%'),
    created_at timestamptz not null default now()
);

-- One account for an address, however it is written. The collation is named, because that of the database is not ours
-- to choose: under "C", Ü and ü would be different letters. The index itself is sorted by byte: the order of an ICU
-- collation changes between its versions, and an index in an order that is no more lets duplicates in.
create unique index users_email_key on users ((lower(email collate "und-x-icu")) collate "C");

create table sessions (
    -- The SHA-256 of the token. Who reads this table cannot open anything with it.
    token_hash bytea constraint sessions_pkey primary key,
    user_id uuid not null constraint sessions_user_id_fkey references users (id) on delete cascade,
    created_at timestamptz not null default now(),
    -- Moves with every use.
    expires_at timestamptz not null,
    -- A log-out sets it, closes the session's sockets, and removes the row only then: if the sockets cannot be closed,
    -- the call fails, and its repeat still finds here whose they are.
    ended_at timestamptz,
    constraint sessions_token_hash_sha256 check (octet_length(token_hash) = 32)
);

-- A password change and a log-out everywhere end all the sessions of one user.
create index sessions_user_id_idx on sessions (user_id);
