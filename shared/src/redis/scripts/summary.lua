-- What goes on in a room, for a list of rooms.
-- KEYS    1 log, 2 online
-- answer  {the newest entry, or none; users online}

return {redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1), redis.call('HLEN', KEYS[2])}
