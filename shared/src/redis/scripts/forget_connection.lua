-- Forgets a connection that is gone. For a while it is remembered as gone, so that a last frame of its, which is still
-- under way, does not bring it back.
-- KEYS    1 the user's connections, 2 there if this connection is gone
-- ARGV    1 connection, 2 seconds for which it is remembered
-- answer  1 if it was known

redis.call('SET', KEYS[2], 1, 'EX', ARGV[2])
return redis.call('HDEL', KEYS[1], ARGV[1])
