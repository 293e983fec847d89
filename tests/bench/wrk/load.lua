-- wrk sends the requests of a file (separated by NUL), one after the other, repeatedly.
local requests, last = {}, 0

function init(args)
   local file = assert(io.open(args[1], "rb"))
   for request in file:read("*a"):gmatch("%Z+") do
      requests[#requests + 1] = request
   end
   file:close()
end

function request()
   last = last % #requests + 1
   return requests[last]
end

dofile(debug.getinfo(1, "S").source:match("@(.*/)") .. "done.lua")
