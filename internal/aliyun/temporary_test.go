package aliyun_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

// Keys that the cloud refuses before their end are fetched anew by the next call, but not by every one.
func TestRefusedKeysAreDropped(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"InvalidSecurityToken.Expired", "InvalidSecurityToken.MismatchWithAccessKey", "InvalidAccessKeyId.NotFound"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			var now clock
			var fetches atomic.Int32
			cloud, _ := cloudOf(t, func(c *sim.Config) { c.Now = now.now })
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/security-credentials/"+sim.DefaultRAMRole) {
					fetches.Add(1)
				}
				cloud.Handler().ServeHTTP(w, r)
			}))
			t.Cleanup(server.Close)
			creds := aliyun.NewRoleCredentials(aliyun.NewMetadata(server.URL), sim.DefaultRAMRole, nil)
			creds.SetClock(now.now)
			client := clientOf(t, server.URL, creds)
			call := func(refusal string, want int32) {
				t.Helper()
				if refusal != "" {
					cloud.Inject(sim.Fault{Action: "DescribeInstances", Code: refusal, HTTPStatus: 403})
				}
				if _, err := client.DescribeInstance(t.Context(), "i-1"); errors.Is(err, aliyun.ErrForbidden) != (refusal != "") {
					t.Errorf("refused with %q: %v", refusal, err)
				}
				if got := fetches.Load(); got != want {
					t.Errorf("keys were fetched %d times, want %d", got, want)
				}
			}
			call("Forbidden.RAM", 1) // says nothing about the keys
			call(code, 1)
			call("", 2)
			call(code, 2)
			call("", 2) // the source was asked just now
			now.advance(2 * time.Minute)
			call(code, 2)
			call("", 3)
		})
	}
}
