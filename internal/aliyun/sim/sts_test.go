package sim_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

const (
	testRole     = "acs:ram::1234567890123456:role/nearpath"
	testProvider = "acs:ram::1234567890123456:oidc-provider/ack-rrsa"
)

// jwt has the form of a service account's token.
func jwt(expires time.Time) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode(fmt.Appendf(nil, `{"exp":%d}`, expires.Unix())) + ".signature"
}

func TestAssumeRoleWithOIDC(t *testing.T) {
	t.Parallel()
	good := jwt(time.Now().Add(time.Hour))
	cfg := sim.DefaultConfig()
	cfg.OIDC = sim.OIDCTrust{RoleARN: testRole, ProviderARN: testProvider, Token: good}
	cloud, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(cloud.Handler())
	t.Cleanup(func() {
		server.Close()
		_ = cloud.Close()
	})
	for _, tc := range []struct {
		name, param, value string
		code               string // empty: it succeeds
		status             int
	}{
		{name: "good", status: 200},
		{"other action", "Action", "AssumeRole", "InvalidAction.NotFound", 404},
		{"no token", "OIDCToken", "", "MissingParameter.OIDCToken", 400},
		{"no token at all", "OIDCToken", "not-a-token", "AuthenticationFail.OIDCToken.Invalid", 401},
		{"no JSON in it", "OIDCToken", "a.b.c", "AuthenticationFail.OIDCToken.Invalid", 401},
		{"old token", "OIDCToken", jwt(time.Now().Add(-time.Minute)), "AuthenticationFail.OIDCToken.Expired", 401},
		{"token of another", "OIDCToken", jwt(time.Now().Add(2 * time.Hour)), "AuthenticationFail.NoPermission", 401},
		{"other provider", "OIDCProviderArn", testProvider + "2", "AuthenticationFail.NoPermission", 401},
		{"other role", "RoleArn", testRole + "2", "EntityNotExist.Role", 404},
		{"session name", "RoleSessionName", "a b", "InvalidParameter.RoleSessionName", 400},
		{"short session", "DurationSeconds", "60", "InvalidParameter.DurationSeconds", 400},
		{"long session", "DurationSeconds", "7200", "InvalidParameter.DurationSeconds", 400},
		{"typing error", "RoleARN", testRole, "UnsupportedParameter", 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			form := url.Values{
				"Action": {"AssumeRoleWithOIDC"}, "Version": {"2015-04-01"}, "Format": {"JSON"},
				"Timestamp": {time.Now().UTC().Format("2006-01-02T15:04:05Z")},
				"RoleArn":   {testRole}, "OIDCProviderArn": {testProvider}, "OIDCToken": {good}, "RoleSessionName": {"nearpath"},
			}
			if tc.param != "" {
				form.Set(tc.param, tc.value)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader(form.Encode()))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			resp, err := server.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var answer struct {
				Code        string
				Credentials struct{ AccessKeyID, AccessKeySecret, SecurityToken, Expiration string }
			}
			if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tc.status || answer.Code != tc.code {
				t.Errorf("status %d, code %q; want %d, %q", resp.StatusCode, answer.Code, tc.status, tc.code)
			}
			if c := answer.Credentials; (tc.code == "") != (c.AccessKeyID != "" && c.AccessKeySecret != "" && c.SecurityToken != "" && c.Expiration != "") {
				t.Errorf("credentials %+v", c)
			}
		})
	}
}
