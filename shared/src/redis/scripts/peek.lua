-- Has this connection joined, and what was logged last?
-- KEYS    1 head, 2 subscribers
-- ARGV    1 connection
-- answer  {1 if it has joined, last position or false, generation or false}

local head = redis.call('HMGET', KEYS[1], 'last', 'generation')
return {redis.call('HEXISTS', KEYS[2], ARGV[1]), head[1], head[2]}
