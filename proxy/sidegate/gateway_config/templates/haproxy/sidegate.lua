-- Check a request with Sidegate: `http-request lua.sidegate http://HOST:PORT/auth-request`.
-- It needs only the httpclient of HAProxy.
-- 200 sets the identity headers and removes the token, and the request continues. 401 and 403 end it with
-- the response of Sidegate. A request that is malformed or too large is 400. Anything else, or no response,
-- is an outage: 503 and Retry-After, neither allow nor deny.

-- The headers of a request that a subrequest repeats: credentials, and what sessions may be bound to.
local FORWARDED = {
{%- for name in site.forwarded %} {{ name.lower | lua }}{{ "," if not loop.last }}{% endfor %} }
-- The headers of an answer that the application gets, and those of a denial that the client gets.
local IDENTITY = {
{%- for name in site.identity %} {{ name.lower | lua }}{{ "," if not loop.last }}{% endfor %} }
local DENIAL = { "content-type", "cache-control", "www-authenticate" }

-- A Lua pattern has no "{56}".
local TOKEN = "sg[wmavs]_" .. string.rep("[A-Za-z0-9_%-]", 56)

-- Return a list from a header table of HAProxy, which starts at 0.
local function to_list(values)
    local list, at = {}, 0
    while values and values[at] do
        list[#list + 1] = values[at]
        at = at + 1
    end
    return list
end

-- In linear time: HAProxy ends itself if a pattern takes seconds.
local function trim(text)
    local first = text:find("[^ \t]")
    return first and text:match("^.*[^ \t]", first) or ""
end

{% if site.cookie is not none %}
-- Return a Cookie line without the session cookie; the other pairs stay as they are.
local function strip_cookie(line)
    local rest, found = {}, false
    for pair in (line .. ";"):gmatch("([^;]*);") do
        if trim(pair:match("^[^=]*")) == {{ site.cookie | lua }} then found = true else rest[#rest + 1] = pair end
    end
    if not found then return line end
    local others = trim(table.concat(rest, ";"))
    return others:find("[^; \t]") and others or ""
end

{% endif %}
{% if site.basic %}
local BITS, ALPHABET = {}, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
for at = 1, #ALPHABET do BITS[ALPHABET:sub(at, at)] = at - 1 end

-- Decode Base64 without padding. Characters that are none are ignored.
local function decode_base64(text)
    local bits, size, decoded = 0, 0, {}
    for character in text:gmatch("[A-Za-z0-9+/]") do
        bits, size = bits * 64 + BITS[character], size + 6
        if size >= 8 then
            size = size - 8
            decoded[#decoded + 1] = string.char(bits >> size)
            bits = bits & ((1 << size) - 1)
        end
    end
    return table.concat(decoded)
end

-- What tolerant applications make of "-", "_" and "=" in Base64: nothing; the alphabet for URLs; zero bits.
local READINGS = { {}, { ["-"] = "+", ["_"] = "/" }, { ["-"] = "+", ["_"] = "/", ["="] = "A" } }

local function is_basic_token(text)
    for _, reading in ipairs(text:find("[-_=]") and READINGS or { {} }) do
        local read = text:gsub("[-_=]", reading)
        if decode_base64(read):find(":\0*" .. TOKEN .. "\0*$") then return true end
    end
    return false
end

{% endif %}
{% if site.bearer or site.basic %}
-- Return an Authorization line, or an empty one for a token.
local function strip_authorization(line)
    local scheme, rest = line:match("^[ \t]*(%a+)[ \t]+(.*)$")
    scheme, rest = scheme and scheme:lower(), trim(rest or "")
{% if site.bearer %}
    if scheme == "bearer" and rest:find("^" .. TOKEN .. "$") then return "" end
{% endif %}
{% if site.basic %}
    if scheme == "basic" and is_basic_token(rest) then return "" end
{% endif %}
    return line
end

{% endif %}
{% if site.header is not none %}
local function strip_header(line)
    return trim(line):find("^" .. TOKEN .. "$") and "" or line
end

{% endif %}
{% if site.websocket_protocol %}
-- Return the subprotocols of the application: those after "sidegate" and the token.
local function strip_protocols(line)
    local rest = line:match("^[ \t]*sidegate[ \t]*,[ \t]*" .. TOKEN .. "[ \t]*(.*)$")
    if rest == "" then return "" end
    return rest and rest:match("^,[ \t]*(.*)$") or line
end

{% endif %}
-- What removes the token from a line of each header that may contain it.
local STRIP = {
{% if site.cookie is not none %}
    ["cookie"] = strip_cookie,
{% endif %}
{% if site.bearer or site.basic %}
    ["authorization"] = strip_authorization,
{% endif %}
{% if site.websocket_protocol %}
    ["sec-websocket-protocol"] = strip_protocols,
{% endif %}
{% if site.header is not none %}
    [{{ site.header.lower | lua }}] = strip_header,
{% endif %}
}

-- Several lines of these are one list (RFC 9113, 8.2.3, and RFC 9110, 5.3), as applications read them.
local SEPARATORS = { ["cookie"] = "; ", ["sec-websocket-protocol"] = ", " }

local function read_lines(sent, name)
    local lines, separator = to_list(sent[name]), SEPARATORS[name]
    return separator and #lines > 1 and { table.concat(lines, separator) } or lines
end

local function subrequest_headers(txn)
    local sent, headers = txn.http:req_get_headers(), {}
    for _, name in ipairs(FORWARDED) do
        headers[name] = read_lines(sent, name)
    end
    if #headers["user-agent"] > 1 then headers["user-agent"] = {} end   -- two are not valid (RFC 9110, 5.3)
    headers["x-original-host"] = to_list(sent["host"])
    headers["x-original-method"] = { txn.f:method() }
    headers["x-original-uri"] = { txn.f:pathq() }
    headers["x-real-ip"] = { txn.f:src() }
    for name, list in pairs(headers) do
        if not list[1] or list[1] == "" then headers[name] = nil end
    end
    return headers
end

local function send_subrequest(txn, url)
    local sent, response = pcall(function()
        -- The listen section is faster, unless HAProxy accepts no connection because of its maxconn.
        return core.httpclient():get { url = url, headers = subrequest_headers(txn), timeout = {{ 2 * site.response_timeout }} }
    end)
    return sent and response or { status = 0, headers = {} }
end

-- Remove the token, so that the application never sees it. Only headers that contain it are written anew.
local function remove_token(txn)
    local sent = txn.http:req_get_headers()
{% if site.header is not none %}
    for name in pairs(sent) do   -- many applications read X_Session_Token as X-Session-Token
        local is_variant = name:gsub("[^a-z0-9]", "-") == {{ site.header.dashed | lower | lua }}
        if is_variant and name ~= {{ site.header.lower | lua }} then txn.http:req_del_header(name) end
    end
{% endif %}
    for name, strip in pairs(STRIP) do
        local lines, changed = read_lines(sent, name), false
        for at, line in ipairs(lines) do
            lines[at] = strip(line)
            changed = changed or lines[at] ~= line
        end
        if changed then
            txn.http:req_del_header(name)
            for _, line in ipairs(lines) do
                if line ~= "" then txn.http:req_add_header(name, line) end
            end
        end
    end
end

local function allow(txn, response)
    remove_token(txn)
    for _, name in ipairs(IDENTITY) do
        local values = response.headers[name]
        if values then txn.http:req_set_header(name, values[0]) end
    end
end

local function deny(txn, response)
    local headers = {}
    for _, name in ipairs(DENIAL) do
        headers[name] = to_list(response.headers[name])
    end
    txn:done(txn:reply { status = response.status, headers = headers, body = response.body })
end

local function unavailable(txn, response)
    local stated = response.headers["retry-after"]
    local headers = { ["retry-after"] = { stated and stated[0] or "1" }, ["cache-control"] = { "no-store" } }
    txn:done(txn:reply { status = 503, headers = headers })
end

-- Return the status of an answer of Sidegate, which repeats it in a header. An error page of HAProxy does not.
local function read_status(response)
    local repeated = response.headers["x-auth-status"]
    return repeated and repeated[0] == tostring(response.status) and response.status or 0
end

core.register_action("sidegate", { "http-req" }, function(txn, url)
    local response = send_subrequest(txn, url)
    local status = read_status(response)
    if status == 200 then
        allow(txn, response)
    elseif status == 401 or status == 403 then
        deny(txn, response)
    elseif response.status == 400 or response.status == 431 then
        txn:done(txn:reply { status = 400 })   -- too large with what a subrequest adds, or not valid
    else
        unavailable(txn, response)
    end
end, 1)
