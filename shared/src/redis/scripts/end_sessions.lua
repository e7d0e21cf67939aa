-- Forgets the connections of sessions that have ended: from now on no frame of theirs is admitted.
-- KEYS    1 the user's connections
-- ARGV    1 'only' these sessions, or all 'but' these; 2… sessions
-- answer  the connections

local named = {}
for index = 2, #ARGV do named[ARGV[index]] = true end

local ended = {}
local connections = redis.call('HGETALL', KEYS[1])
for index = 1, #connections, 2 do
  local session = string.match(connections[index + 1], '^%S+')
  if (named[session] or false) == (ARGV[1] == 'only') then
    ended[#ended + 1] = connections[index]
    redis.call('HDEL', KEYS[1], connections[index])
  end
end
return ended
