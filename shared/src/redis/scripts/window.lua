-- Exact sliding windows over lists of times, newest first: at most `count` in any span of `window_us`.
-- Included before the scripts that throttle. Time is Redis' own, in microseconds, so all functions share one clock.

local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- keys: the lists from index `first` on; limits: count and window_us of each, from index `first_limit` on.
-- Passes (and counts) only if every window has room. Answers the microseconds to wait, 0 if it passed.
local function pass(keys, first, limits, first_limit)
  local now = now_us()
  local wait = 0
  for index = first, #keys do
    local limit = first_limit + (index - first) * 2
    local count, window = tonumber(limits[limit]), tonumber(limits[limit + 1])
    local oldest = redis.call('LINDEX', keys[index], count - 1)
    if oldest then
      -- A replica that took over may have a clock behind the one that wrote: never longer than the window.
      local rest = math.min(tonumber(oldest) + window - now, window)
      if rest > wait then wait = rest end
    end
  end
  if wait > 0 then return wait end
  for index = first, #keys do
    local limit = first_limit + (index - first) * 2
    local count, window = tonumber(limits[limit]), tonumber(limits[limit + 1])
    redis.call('LPUSH', keys[index], string.format('%.0f', now))
    redis.call('LTRIM', keys[index], 0, count - 1)
    redis.call('PEXPIRE', keys[index], string.format('%.0f', math.ceil(window / 1000)))
  end
  return 0
end
