-- Ends all subscriptions of a user who is a member no more, and makes joins that are under way check again.
-- KEYS    1 head, 2 subscribers, 3 online
-- ARGV    1 user, 2 fresh version, 3 seconds for which the room stays after its last use
-- answer  how many connections had joined

redis.call('HSET', KEYS[1], 'access', ARGV[2])
keep({KEYS[1]}, ARGV[3])
-- Looking through a large room is only worth it for somebody who is in it.
if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 0 then return 0 end

local expelled = 0
local subscribers = redis.call('HGETALL', KEYS[2])
for index = 1, #subscribers, 2 do
  if string.match(subscribers[index + 1], '^%S+') == ARGV[1] then
    expelled = expelled + 1
    unsubscribe(KEYS[2], KEYS[3], subscribers[index])
  end
end
if expelled > 0 then redis.call('HSET', KEYS[1], 'subscribers', ARGV[2]) end
return expelled
