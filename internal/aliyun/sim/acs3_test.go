package sim

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// signHeader signs a request by the vendor's description of signature version 3, step by step and apart from the code that
// checks it.
func signHeader(r *http.Request, key, secret, action, version, nonce, date, body string) {
	payload := sha256.Sum256([]byte(body))
	r.Header.Set("x-acs-action", action)
	r.Header.Set("x-acs-version", version)
	r.Header.Set("x-acs-date", date)
	r.Header.Set("x-acs-signature-nonce", nonce)
	r.Header.Set("x-acs-content-sha256", hex.EncodeToString(payload[:]))
	signed := map[string]string{"host": r.Host}
	for name := range r.Header {
		signed[strings.ToLower(name)] = r.Header.Get(name)
	}
	canonical := r.Method + "\n/\n"
	var pairs []string
	for k, values := range r.URL.Query() {
		pairs = append(pairs, url.QueryEscape(k)+"="+strings.ReplaceAll(url.QueryEscape(values[0]), "+", "%20"))
	}
	slices.Sort(pairs)
	canonical += strings.Join(pairs, "&") + "\n"
	names := slices.Sorted(maps.Keys(signed))
	var lines []string
	for _, name := range names {
		lines = append(lines, name+":"+signed[name]+"\n")
	}
	canonical += strings.Join(lines, "")
	list := strings.Join(names, ";")
	canonical += "\n" + list + "\n" + hex.EncodeToString(payload[:])
	hash := sha256.Sum256([]byte(canonical))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("ACS3-HMAC-SHA256\n" + hex.EncodeToString(hash[:])))
	r.Header.Set("Authorization", fmt.Sprintf("ACS3-HMAC-SHA256 Credential=%s,SignedHeaders=%s,Signature=%s", key, list, hex.EncodeToString(mac.Sum(nil))))
}

// The request and its signature are the fixed example in the vendor's documentation.
func TestSignatureVector3(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodPost, "http://ecs.cn-shanghai.aliyuncs.com/?ImageId=win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd&RegionId=cn-shanghai", nil)
	signHeader(r, "YourAccessKeyId", "YourAccessKeySecret", "RunInstances", "2014-05-26", "3156853299f313e23d1673dc12e1703d", "2023-10-26T10:22:32Z", "")
	const want = "06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
	if got := r.Header.Get("Authorization"); !strings.HasSuffix(got, "Signature="+want) {
		t.Errorf("the test's signer gives %s, want %s", got, want)
	}
	a, err := splitAuthorization(r.Header.Get("Authorization"))
	if err != nil {
		t.Fatal(err)
	}
	if got := signACS3("ACS3-HMAC-SHA256\n"+hexSHA256([]byte(canonicalRequest(r, a.headers))), "YourAccessKeySecret"); got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

func TestACS3(t *testing.T) {
	t.Parallel()
	c := newCloud(t, nil)
	date := c.cfg.Now().UTC().Format(timestampFormat)
	number := 0
	request := func(method, query, body string, spoil func(*http.Request)) (int, map[string]any) {
		t.Helper()
		number++
		r := httptest.NewRequest(method, "/?"+query, strings.NewReader(body))
		if body != "" {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		signHeader(r, DefaultAccessKey, DefaultAccessSecret, "DescribeNetworkInterfaces", ecsVersion, fmt.Sprint("n", number), date, body)
		if spoil != nil {
			spoil(r)
		}
		return exchange(t, c, r)
	}
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for name, tc := range map[string]struct {
		method, query, body string
		spoil               func(*http.Request)
		status              int
		code                string
	}{
		"POST":                   {"POST", "RegionId=" + DefaultRegion + "&PageSize=5", "", nil, 200, ""},
		"GET":                    {"GET", "PageSize=5&Tag.1.Key=a+b%2A~%2F", "", nil, 200, ""},
		"form":                   {"POST", "PageSize=5", "PageNumber=2&Status=InUse", nil, 200, ""},
		"other region":           {"POST", "RegionId=cn-else", "", nil, 404, "InvalidRegionId.NotFound"},
		"unknown parameter":      {"POST", "Colour=red", "", nil, 400, "UnsupportedParameter"},
		"other algorithm":        {"POST", "", "", set("Authorization", "ACS4 Credential=a,SignedHeaders=host,Signature=b"), 400, "IncompleteSignature"},
		"not all signed":         {"POST", "", "", set("X-Acs-Extra", "1"), 400, "IncompleteSignature"},
		"changed header":         {"POST", "", "", set("X-Acs-Version", "2014-05-27"), 400, "SignatureDoesNotMatch"},
		"changed query":          {"POST", "", "", func(r *http.Request) { r.URL.RawQuery = "PageSize=1" }, 400, "SignatureDoesNotMatch"},
		"changed body":           {"POST", "", "PageSize=1", func(r *http.Request) { r.Body = body("PageSize=2") }, 400, "SignatureDoesNotMatch"},
		"no nonce":               {"POST", "", "", func(r *http.Request) { r.Header.Del("X-Acs-Signature-Nonce") }, 400, "MissingParameter.x-acs-signature-nonce"},
		"replayed":               {"POST", "", "", resign("n1", date), 400, "SignatureNonceUsed"},
		"old":                    {"POST", "", "", resign("old", "2020-01-01T00:00:00Z"), 400, "InvalidTimeStamp.Expired"},
		"unknown key":            {"POST", "", "", set("Authorization", "ACS3-HMAC-SHA256 Credential=nobody,SignedHeaders="+everyHeader+",Signature=b"), 404, "InvalidAccessKeyId.NotFound"},
		"only looks like header": {"POST", "%00Authorization=x", "", func(r *http.Request) { r.Header = http.Header{} }, 400, "MissingParameter.x-acs-action"},
	} {
		if name == "replayed" {
			r := httptest.NewRequest("POST", "/", nil)
			signHeader(r, DefaultAccessKey, DefaultAccessSecret, "DescribeInstances", ecsVersion, "n1", date, "")
			exchange(t, c, r) // uses n1 if nobody did
		}
		status, answer := request(tc.method, tc.query, tc.body, tc.spoil)
		if code, _ := answer["Code"].(string); status != tc.status || code != tc.code {
			t.Errorf("%s: %d %v, want %d %s", name, status, answer, tc.status, tc.code)
		}
	}
}

const everyHeader = "host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version"

func body(text string) io.ReadCloser { return io.NopCloser(strings.NewReader(text)) }

func resign(nonce, date string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header = http.Header{}
		signHeader(r, DefaultAccessKey, DefaultAccessSecret, "DescribeNetworkInterfaces", ecsVersion, nonce, date, "")
	}
}

// Temporary keys sign with their token among the headers.
func TestACS3WithSecurityToken(t *testing.T) {
	t.Parallel()
	c := newCloud(t, nil)
	c.mu.Lock()
	s := c.sessionOf("i-1", c.cfg.Now())
	c.mu.Unlock()
	for name, token := range map[string]string{"": s.token, codeMissingToken: "", codeTokenMismatch: "x"} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		if token != "" {
			r.Header.Set("x-acs-security-token", token)
		}
		signHeader(r, s.id, s.secret, "DescribeInstances", ecsVersion, "n"+name, c.cfg.Now().UTC().Format(timestampFormat), "")
		if _, answer := exchange(t, c, r); orDefault(fmt.Sprint(answer["Code"]), "") != orDefault(name, "<nil>") {
			t.Errorf("token %q: %v, want %q", token, answer, name)
		}
	}
}

func FuzzACS3(f *testing.F) {
	c := newCloud(f, nil)
	f.Add("ACS3-HMAC-SHA256 Credential=simulated-key,SignedHeaders=host;x-acs-action,Signature=00", "PageSize=1", "a=b", "application/x-www-form-urlencoded")
	f.Add("ACS3-HMAC-SHA256 Credential=,,=;SignedHeaders", "%zz", "", "multipart/form-data; boundary=x")
	f.Fuzz(func(t *testing.T, authorization, query, text, kind string) {
		u := &url.URL{Path: "/", RawQuery: query}
		r := (&http.Request{Method: http.MethodPost, URL: u, Host: "sim", Header: http.Header{}, Body: body(text)}).WithContext(t.Context())
		r.Header.Set("Authorization", authorization)
		r.Header.Set("Content-Type", kind)
		for name := range strings.SplitSeq(everyHeader, ";") {
			r.Header.Set(name, "x")
		}
		if status, answer := exchange(t, c, r); status < 400 || status >= 500 || answer["Code"] == "" {
			t.Errorf("status %d, answer %v", status, answer)
		}
	})
}
