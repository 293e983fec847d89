-- wrk refreshes sessions: each token is sent once, and its successor takes its place in the queue.
-- The file holds, separated by NUL, a head without the value of Content-Length, and the tokens.
local head, tokens, first, last = nil, {}, 1, 0

local function put(token)
   last = last + 1
   tokens[last] = token
end

function init(args)
   local file = assert(io.open(args[1], "rb"))
   for text in file:read("*a"):gmatch("%Z+") do
      if head then put(text) else head = text end
   end
   file:close()
end

function request()
   local body = '{"token": "' .. assert(tokens[first], "no token is left") .. '"}'
   tokens[first], first = nil, first + 1
   return head .. #body .. "\r\n\r\n" .. body
end

function response(status, headers, body)
   if status == 200 then put(assert(body:match('"token": "([^"]+)"'))) end
end

dofile(debug.getinfo(1, "S").source:match("@(.*/)") .. "done.lua")
