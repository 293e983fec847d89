// The same as nginx with Lua, written with net/http and go-redis: go-reference PORT REDIS_PORT
package main

import (
	"errors"
	"log"
	"net/http"
	"os"

	"github.com/redis/go-redis/v9"
)

func main() {
	port, redisPort := os.Args[1], os.Args[2]
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + redisPort})
	http.HandleFunc("/auth-request", func(response http.ResponseWriter, request *http.Request) {
		token := ""
		if cookie, err := request.Cookie("__Host-session"); err == nil {
			token = cookie.Value
		}
		user, err := client.Get(request.Context(), "session:"+token).Result()
		switch {
		case errors.Is(err, redis.Nil):
			response.WriteHeader(http.StatusUnauthorized)
		case err != nil:
			response.WriteHeader(http.StatusServiceUnavailable)
		default:
			response.Header().Set("X-Auth-User", user)
		}
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, nil))
}
