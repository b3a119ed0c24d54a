package aliyun_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
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

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func trust(c *sim.Config) { c.OIDC = sim.OIDCTrust{RoleARN: testRole, ProviderARN: testProvider} }

// A service account's token gives keys that the API accepts; they are renewed with the token that is in the file then.
func TestOIDCCredentials(t *testing.T) {
	t.Parallel()
	var now clock
	cloud, url := cloudOf(t, func(c *sim.Config) {
		trust(c)
		c.Now = now.now
	})
	file := write(t, filepath.Join(t.TempDir(), "token"), jwt(now.now().Add(time.Hour))+"\n")
	creds, err := aliyun.NewOIDCCredentials(aliyun.OIDCConfig{
		RoleARN: testRole, ProviderARN: testProvider, TokenFile: file, RegionID: sim.DefaultRegion, Endpoint: url,
	})
	if err != nil {
		t.Fatal(err)
	}
	creds.SetClock(now.now)
	first, err := creds.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if again, err := creds.Keys(t.Context()); err != nil || again != first {
			t.Errorf("keys changed within their life: %v, %v", again, err)
		}
	}
	if _, err := clientOf(t, url, creds).CreateENI(t.Context(), podENI()); err != nil {
		t.Errorf("with the keys of the role: %v", err)
	}
	now.advance(50 * time.Minute)
	write(t, file, "cut off")
	if keys, err := creds.Keys(t.Context()); err != nil || keys != first {
		t.Errorf("while the token is no good = %v, %v; want the old keys", keys, err)
	}
	now.advance(time.Minute)
	write(t, file, jwt(now.now().Add(time.Hour))) // the first one has 9 minutes left
	second, err := creds.Keys(t.Context())
	if err != nil || second == first || second.Expires.Before(now.now().Add(50*time.Minute)) {
		t.Errorf("renewed keys = %v until %v, %v", second, second.Expires, err)
	}
	if n := cloud.Calls()["AssumeRoleWithOIDC"]; n != 3 {
		t.Errorf("%d calls of AssumeRoleWithOIDC, want 3", n)
	}
}

func TestOIDCCredentialsRefused(t *testing.T) {
	t.Parallel()
	cloud, url := cloudOf(t, trust)
	for name, change := range map[string]func(*aliyun.OIDCConfig){
		"other role":     func(c *aliyun.OIDCConfig) { c.RoleARN += "2" },
		"other provider": func(c *aliyun.OIDCConfig) { c.ProviderARN += "2" },
		"old token":      func(c *aliyun.OIDCConfig) { write(t, c.TokenFile, jwt(time.Now().Add(-time.Hour))) },
		"empty token":    func(c *aliyun.OIDCConfig) { write(t, c.TokenFile, " \n") },
		"no file":        func(c *aliyun.OIDCConfig) { c.TokenFile += "2" },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := aliyun.OIDCConfig{RoleARN: testRole, ProviderARN: testProvider, RegionID: sim.DefaultRegion, Endpoint: url}
			token := jwt(time.Now().Add(time.Hour))
			cfg.TokenFile = write(t, filepath.Join(t.TempDir(), "token"), token)
			change(&cfg)
			creds, err := aliyun.NewOIDCCredentials(cfg)
			if err != nil {
				t.Fatal(err)
			}
			before := cloud.Calls()
			// What STS does not find is not what the caller asks for.
			_, err = clientOf(t, url, creds).DescribeInstance(t.Context(), "i-1")
			if !errors.Is(err, aliyun.ErrForbidden) || errors.Is(err, aliyun.ErrNotFound) {
				t.Errorf("error %v, want ErrForbidden alone", err)
			}
			if strings.Contains(err.Error(), token) {
				t.Errorf("error shows the token: %v", err)
			}
			if n := cloud.Calls()["AssumeRoleWithOIDC"] - before["AssumeRoleWithOIDC"]; n > 1 {
				t.Errorf("STS was asked %d times for what it refuses", n)
			}
		})
	}
}

// The token is in the body and nothing of the request is signed.
func TestOIDCRequest(t *testing.T) {
	t.Parallel()
	var query, form string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.RawQuery
		_ = r.ParseForm()
		form = r.PostForm.Get("OIDCToken") + " " + r.PostForm.Get("RoleSessionName") + " " + r.Form.Get("Signature") + r.Form.Get("AccessKeyId")
		_, _ = w.Write([]byte(`{"Credentials":{"AccessKeyId":"STS.x","AccessKeySecret":"y","SecurityToken":"z","Expiration":"2099-01-02T15:04:05Z"}}`))
	}))
	t.Cleanup(server.Close)
	creds, err := aliyun.NewOIDCCredentials(aliyun.OIDCConfig{
		RoleARN: testRole, ProviderARN: testProvider, TokenFile: write(t, filepath.Join(t.TempDir(), "token"), "a.b.c"),
		SessionName: "node-1", RegionID: sim.DefaultRegion, Endpoint: server.URL,
	})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := creds.Keys(t.Context())
	if err != nil || keys.AccessKeyID != "STS.x" || keys.AccessKeySecret != "y" || keys.SecurityToken != "z" {
		t.Errorf("keys = %+v, %v", keys, err)
	}
	if form != "a.b.c node-1 " || strings.Contains(query, "a.b.c") || !strings.Contains(query, "Action=AssumeRoleWithOIDC") {
		t.Errorf("query %q, form %q", query, form)
	}
}

// A role that is named and not attached is refused credentials, not an object that does not exist.
func TestRoleThatIsNotAttached(t *testing.T) {
	t.Parallel()
	_, url := cloudOf(t, nil)
	creds := aliyun.NewRoleCredentials(aliyun.NewMetadata(url), "other", nil)
	err := clientOf(t, url, creds).UnassignIPs(t.Context(), "eni-1", addrs("10.0.0.1"))
	if !errors.Is(err, aliyun.ErrForbidden) || errors.Is(err, aliyun.ErrNotFound) {
		t.Errorf("error %v, want ErrForbidden alone", err)
	}
}

func TestCredentialFile(t *testing.T) {
	t.Parallel()
	var now clock
	path := filepath.Join(t.TempDir(), "keys")
	write(t, path, `{"accessKeyID":"one","accessKeySecret":"s1"}`)
	creds, err := aliyun.NewFileCredentials(path, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	creds.SetClock(now.now)
	want := func(id string) {
		t.Helper()
		if k, err := creds.Keys(t.Context()); err != nil || k.AccessKeyID != id {
			t.Errorf("keys = %v, %v; want %s", k, err, id)
		}
	}
	want("one")
	write(t, path, fmt.Sprintf(`{"AccessKeyId":"two","AccessKeySecret":"s2","SecurityToken":"t","Expiration":%q}`, now.now().Add(time.Hour).Format(time.RFC3339)))
	want("two")
	write(t, path, `{"accessKeyID":"thr`) // somebody is writing
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { want("two") })
	}
	wg.Wait()
	now.advance(2 * time.Hour)
	if k, err := creds.Keys(t.Context()); !errors.Is(err, aliyun.ErrForbidden) {
		t.Errorf("after the end of the last good keys = %v, %v", k, err)
	}
	write(t, path, "[other]\ntype = sts\n[default]\n# for the node\ntype = access_key\naccess_key_id = four\naccess_key_secret = s4\n")
	want("four")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	want("four")
}

func TestCredentialFileRefused(t *testing.T) {
	t.Parallel()
	const secret = "very-secret"
	for name, tc := range map[string]struct{ text, says string }{
		"empty":           {"", "no profile [default]"},
		"no secret":       {`{"accessKeyID":"x"}`, "missing"},
		"torn":            {`{"accessKeyID":"x","accessKeySecret":"` + secret, "not a JSON object"},
		"number":          {`{"accessKeyID":7,"accessKeySecret":"` + secret + `"}`, "not a JSON object"},
		"bad time":        {`{"accessKeyID":"x","accessKeySecret":"` + secret + `","expiration":"soon"}`, "2026-01-02"},
		"expired":         {`{"accessKeyID":"x","accessKeySecret":"` + secret + `","expiration":"2020-01-02T15:04:05Z"}`, "expired at 2020"},
		"addon token":     {`{"access.key.id":"` + secret + `","keyring":"k"}`, "encrypted"},
		"aliyun CLI":      {`{"current":"default","profiles":[{"access_key_secret":"` + secret + `"}]}`, "aliyun command"},
		"no section":      {"access_key_secret = " + secret, "no profile [default]"},
		"no pair":         {"[default]\n" + secret, "line 2"},
		"role profile":    {"[default]\ntype = ram_role_arn\naccess_key_id = x\naccess_key_secret = " + secret, "type other than"},
		"session without": {"[default]\ntype = sts\naccess_key_id = x\naccess_key_secret = " + secret, "security_token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := write(t, filepath.Join(t.TempDir(), "keys"), tc.text)
			_, err := aliyun.NewFileCredentials(path, "", nil)
			if !errors.Is(err, aliyun.ErrForbidden) || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v; want ErrForbidden, %q and the path", err, tc.says)
			}
			if strings.Contains(fmt.Sprint(err), secret) {
				t.Errorf("error shows a secret: %v", err)
			}
		})
	}
}

func TestChooseCredentials(t *testing.T) {
	t.Parallel()
	file := write(t, filepath.Join(t.TempDir(), "keys"), "[default]\ntype=access_key\naccess_key_id=a\naccess_key_secret=b\n[blue]\ntype=sts\naccess_key_id=c\naccess_key_secret=d\nsecurity_token=e\n")
	rrsa := map[string]string{
		"ALIBABA_CLOUD_ROLE_ARN": testRole, "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": testProvider,
		"ALIBABA_CLOUD_OIDC_TOKEN_FILE": "/var/run/secrets/token", "ALIBABA_CLOUD_PROFILE": "blue",
	}
	without := func(name string) map[string]string {
		part := map[string]string{}
		for k, v := range rrsa {
			if k != name {
				part[k] = v
			}
		}
		return part
	}
	all := aliyun.CredentialConfig{
		AccessKeyID: "id", AccessKeySecret: "secret", File: file, RegionID: sim.DefaultRegion, Metadata: aliyun.NewMetadata("http://127.0.0.1:1"),
	}
	for _, tc := range []struct {
		name   string
		env    map[string]string
		change func(*aliyun.CredentialConfig)
		which  string // empty: refused
		says   string
	}{
		{"keys come first", rrsa, func(*aliyun.CredentialConfig) {}, "access key id", ""},
		{"half a key", rrsa, func(c *aliyun.CredentialConfig) { c.AccessKeySecret = "" }, "", "both"},
		{"file", rrsa, func(c *aliyun.CredentialConfig) { c.AccessKeyID, c.AccessKeySecret = "", "" }, "credential file " + file, ""},
		{"no file", rrsa, func(c *aliyun.CredentialConfig) {
			c.AccessKeyID, c.AccessKeySecret = "", ""
			c.File += "2"
		}, "", "credential file"},
		{"service account", rrsa, func(c *aliyun.CredentialConfig) { c.AccessKeyID, c.AccessKeySecret, c.File = "", "", "" }, "RAM role " + testRole + " by OIDC", ""},
		{"service account without a token", without("ALIBABA_CLOUD_OIDC_TOKEN_FILE"), func(c *aliyun.CredentialConfig) { c.AccessKeyID, c.AccessKeySecret, c.File = "", "", "" }, "", "ALIBABA_CLOUD_OIDC_TOKEN_FILE"},
		{"service account without a role", without("ALIBABA_CLOUD_ROLE_ARN"), func(c *aliyun.CredentialConfig) { c.AccessKeyID, c.AccessKeySecret, c.File = "", "", "" }, "", "ALIBABA_CLOUD_ROLE_ARN"},
		{"STS in the clear", rrsa, func(c *aliyun.CredentialConfig) {
			c.AccessKeyID, c.AccessKeySecret, c.File, c.STSEndpoint = "", "", "", "http://sts.example"
		}, "", "insecureHTTP"},
		{"instance", nil, func(c *aliyun.CredentialConfig) { c.AccessKeyID, c.AccessKeySecret, c.File = "", "", "" }, "instance's RAM role", ""},
		{"nothing", nil, func(c *aliyun.CredentialConfig) { *c = aliyun.CredentialConfig{} }, "", "none"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cfg := all
			tc.change(&cfg)
			cfg.Getenv = func(name string) string { return tc.env[name] }
			creds, which, err := aliyun.ChooseCredentials(cfg)
			if which != tc.which || (err == nil) != (tc.which != "") || (creds == nil) != (tc.which == "") {
				t.Errorf("ChooseCredentials = %v, %q, %v; want %q", creds, which, err, tc.which)
			}
			if err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v does not say %q", err, tc.says)
			}
			if tc.name == "file" {
				if k, err := creds.Keys(t.Context()); err != nil || k.SecurityToken != "e" {
					t.Errorf("keys of the profile = %v, %v", k, err)
				}
			}
		})
	}
}
