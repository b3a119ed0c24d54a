package sim

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newCloud(tb testing.TB, change func(*Config)) *Cloud {
	tb.Helper()
	cfg := DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// A caller signs requests by hand, so that a test can spoil any part of them.
type caller struct {
	cloud *Cloud
	nonce int
}

// params are the common parameters with those of the action; an empty value removes one.
func (c *caller) params(version, action string, extra map[string]string) input {
	c.nonce++
	in := input{
		"Action": action, "Version": version, "Format": "JSON", "AccessKeyId": DefaultAccessKey,
		"RegionId": DefaultRegion, "Timestamp": c.cloud.cfg.Now().UTC().Format(timestampFormat),
		"SignatureMethod": "HMAC-SHA1", "SignatureVersion": "1.0", "SignatureType": "",
		"SignatureNonce": fmt.Sprint("nonce-", c.nonce),
	}
	maps.Copy(in, extra)
	for k, v := range extra {
		if v == "" {
			delete(in, k)
		}
	}
	return in
}

// ecs sends a signed ECS action and returns the status and the answer.
func (c *caller) ecs(tb testing.TB, action string, extra map[string]string) (int, map[string]any) {
	tb.Helper()
	in := c.params(ecsVersion, action, extra)
	in["Signature"] = sign(stringToSign("POST", in), DefaultAccessSecret)
	return c.post(tb, in)
}

func (c *caller) post(tb testing.TB, in input) (int, map[string]any) {
	tb.Helper()
	return exchange(tb, c.cloud, httptest.NewRequest(http.MethodPost, "/?"+encode(in), nil))
}

func exchange(tb testing.TB, c *Cloud, r *http.Request) (int, map[string]any) {
	tb.Helper()
	w := httptest.NewRecorder()
	c.Handler().ServeHTTP(w, r)
	var answer map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		tb.Fatalf("answer %q is no JSON: %v", w.Body, err)
	}
	return w.Code, answer
}

func encode(in input) string {
	v := url.Values{}
	for k, s := range in {
		v.Set(k, s)
	}
	return v.Encode()
}

// The first vector is in the vendor's documentation of signature version 1.0, the second in the SDK's tests.
func TestSignatureVectors(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, method, secret, toSign, want string
		in                                 input
	}{
		{
			name: "documentation", method: "GET", secret: "testsecret", want: "OLeaidS1JvxuMvnyHOwuJ+uX5qY=",
			in: input{
				"AccessKeyId": "testid", "Action": "DescribeRegions", "Format": "XML", "SignatureMethod": "HMAC-SHA1",
				"SignatureNonce": "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf", "SignatureVersion": "1.0",
				"Timestamp": "2016-02-23T12:46:24Z", "Version": "2014-05-26",
			},
			toSign: "GET&%2F&AccessKeyId%3Dtestid%26Action%3DDescribeRegions%26Format%3DXML%26SignatureMethod%3DHMAC-SHA1" +
				"%26SignatureNonce%3D3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf%26SignatureVersion%3D1.0" +
				"%26Timestamp%3D2016-02-23T12%253A46%253A24Z%26Version%3D2014-05-26",
		},
		{
			name: "SDK", method: "GET", secret: "accessKeySecret", want: "7loPmFjvDnzOVnQeQNj85S6nFGY=",
			in: input{
				"Version": "", "Action": "", "Format": "JSON", "Timestamp": "mock date", "SignatureMethod": "HMAC-SHA1",
				"SignatureType": "", "SignatureVersion": "1.0", "SignatureNonce": "MOCK_UUID", "AccessKeyId": "accessKeyId",
				"RegionId": "regionId", "Signature": "is left out",
			},
		},
		{
			name: "query and form", method: "GET", secret: "s", want: sign("GET&%2F&key%3Dvalue%26q%3Dhttp%253A%252F%252Fdomain%252F%253Fq%253Dvalue%2526q2%253Dvalue2", "s"),
			in: input{"key": "value", "q": "http://domain/?q=value&q2=value2"},
		},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			toSign := stringToSign(tc.method, tc.in)
			if tc.toSign != "" && toSign != tc.toSign {
				t.Errorf("string to sign\n%s, want\n%s", toSign, tc.toSign)
			}
			if got := sign(toSign, tc.secret); got != tc.want {
				t.Errorf("signature %s, want %s", got, tc.want)
			}
		})
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	c := &caller{cloud: newCloud(t, nil)}
	old := time.Now().Add(-16 * time.Minute).UTC().Format(timestampFormat)
	ahead := time.Now().Add(16 * time.Minute).UTC().Format(timestampFormat)
	cases := []struct {
		name   string
		extra  map[string]string
		status int
		code   string
	}{
		{"unknown action", map[string]string{"Action": "RebootUniverse"}, 404, "InvalidAction.NotFound"},
		{"action of another version", map[string]string{"Version": vpcVersion}, 404, "InvalidAction.NotFound"},
		{"no action", map[string]string{"Action": ""}, 400, "MissingParameter.Action"},
		{"no key", map[string]string{"AccessKeyId": ""}, 400, "MissingParameter.AccessKeyId"},
		{"no nonce", map[string]string{"SignatureNonce": ""}, 400, "MissingParameter.SignatureNonce"},
		{"unknown key", map[string]string{"AccessKeyId": "nobody"}, 404, "InvalidAccessKeyId.NotFound"},
		{"other format", map[string]string{"Format": "XML"}, 400, "UnsupportedParameter"},
		{"other algorithm", map[string]string{"SignatureMethod": "HMAC-MD5"}, 400, "IncompleteSignature"},
		{"too old", map[string]string{"Timestamp": old}, 400, "InvalidTimeStamp.Expired"},
		{"from the future", map[string]string{"Timestamp": ahead}, 400, "InvalidTimeStamp.Expired"},
		{"no time", map[string]string{"Timestamp": "now"}, 400, "InvalidTimeStamp.Format"},
		{"other region", map[string]string{"RegionId": "cn-elsewhere"}, 404, "InvalidRegionId.NotFound"},
		{"unknown parameter", map[string]string{"Instanceid": "i-1"}, 400, "UnsupportedParameter"},
		{"list with an index of 0", map[string]string{"NetworkInterfaceId.0": "eni-1"}, 400, "UnsupportedParameter"},
		{"bad page size", map[string]string{"PageSize": "101"}, 400, "InvalidParameter"},
		{"bad token", map[string]string{"NextToken": "x"}, 400, "InvalidParameter"},
		{"tag without a key", map[string]string{"Tag.1.Value": "x"}, 200, ""},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			status, answer := c.ecs(t, "DescribeNetworkInterfaces", tc.extra)
			code, _ := answer["Code"].(string)
			if status != tc.status || code != tc.code || answer["RequestId"] == "" {
				t.Errorf("status %d, answer %v; want %d with %s", status, answer, tc.status, tc.code)
			}
		})
	}
}

func TestSpoiledSignature(t *testing.T) {
	t.Parallel()
	c := &caller{cloud: newCloud(t, nil)}
	good := func() input {
		in := c.params(ecsVersion, "DescribeInstances", nil)
		in["Signature"] = sign(stringToSign("POST", in), DefaultAccessSecret)
		return in
	}
	t.Run("good", func(t *testing.T) {
		if status, answer := c.post(t, good()); status != 200 {
			t.Errorf("status %d, answer %v", status, answer)
		}
	})
	t.Run("changed parameter", func(t *testing.T) {
		in := good()
		in["PageSize"] = "1"
		_, answer := c.post(t, in)
		message, _ := answer["Message"].(string)
		if answer["Code"] != "SignatureDoesNotMatch" || !strings.HasSuffix(message, "server string to sign is:"+stringToSign("POST", in)) {
			t.Errorf("answer %v", answer)
		}
	})
	t.Run("signed for GET", func(t *testing.T) {
		in := good()
		in["Signature"] = sign(stringToSign("GET", in), DefaultAccessSecret)
		if _, answer := c.post(t, in); answer["Code"] != "SignatureDoesNotMatch" {
			t.Errorf("answer %v", answer)
		}
	})
	t.Run("replayed", func(t *testing.T) {
		in := good()
		if status, _ := c.post(t, in); status != 200 {
			t.Fatalf("status %d", status)
		}
		if _, answer := c.post(t, in); answer["Code"] != "SignatureNonceUsed" {
			t.Errorf("answer %v", answer)
		}
	})
	t.Run("a spoiled request does not use the nonce up", func(t *testing.T) {
		in := good()
		signature := in["Signature"]
		in["Signature"] = "AAAA"
		c.post(t, in)
		in["Signature"] = signature
		if status, answer := c.post(t, in); status != 200 {
			t.Errorf("status %d, answer %v", status, answer)
		}
	})
	t.Run("in the form", func(t *testing.T) {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(encode(good())))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if status, answer := exchange(t, c.cloud, r); status != 200 {
			t.Errorf("status %d, answer %v", status, answer)
		}
	})
	t.Run("twice in query and form", func(t *testing.T) {
		in := encode(good())
		r := httptest.NewRequest(http.MethodPost, "/?"+in, strings.NewReader(in))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if _, answer := exchange(t, c.cloud, r); answer["Code"] != "InvalidParameter" {
			t.Errorf("answer %v", answer)
		}
	})
	t.Run("other method", func(t *testing.T) {
		if status, _ := exchange(t, c.cloud, httptest.NewRequest(http.MethodPut, "/?"+encode(good()), nil)); status != 405 {
			t.Errorf("status %d", status)
		}
	})
}

func TestNoncesAreForgotten(t *testing.T) {
	t.Parallel()
	table := nonceTable{seen: map[string]struct{}{}}
	start := time.Now()
	for i := range 100 {
		if !table.add(fmt.Sprint(i), start.Add(time.Duration(i)*time.Minute)) {
			t.Fatalf("nonce %d is refused", i)
		}
	}
	if n := len(table.seen); n > 32 || n != len(table.order) {
		t.Errorf("%d nonces in the set, %d in the order, want at most 32", n, len(table.order))
	}
	if table.add("99", start.Add(99*time.Minute)) {
		t.Error("a nonce is accepted twice")
	}
}

func TestClientToken(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := &caller{cloud: newCloud(t, func(c *Config) { c.Now = func() time.Time { return now } })}
	params := map[string]string{"VSwitchId": DefaultPodVSwitch, "SecurityGroupIds.1": DefaultSecurityGroup, "ClientToken": "t"}
	_, first := c.ecs(t, "CreateNetworkInterface", params)
	_, second := c.ecs(t, "CreateNetworkInterface", params)
	if first["NetworkInterfaceId"] != second["NetworkInterfaceId"] || first["RequestId"] == second["RequestId"] {
		t.Errorf("same token: %v and %v", first, second)
	}
	other := maps.Clone(params)
	other["Description"] = "other"
	if status, answer := c.ecs(t, "CreateNetworkInterface", other); status != 400 || answer["Code"] != codeIdempotentMismatch {
		t.Errorf("same token, other parameters: %d, %v", status, answer)
	}
	bad := map[string]string{"VSwitchId": "vsw-none", "SecurityGroupIds.1": DefaultSecurityGroup, "ClientToken": "u"}
	c.ecs(t, "CreateNetworkInterface", bad)
	bad["VSwitchId"] = DefaultPodVSwitch
	if status, answer := c.ecs(t, "CreateNetworkInterface", bad); status != 200 {
		t.Errorf("a token whose call failed: %d, %v", status, answer)
	}
	now = now.Add(25 * time.Hour)
	if _, third := c.ecs(t, "CreateNetworkInterface", params); third["NetworkInterfaceId"] == first["NetworkInterfaceId"] {
		t.Error("a token is remembered for more than a day")
	}
}

func FuzzRPC(f *testing.F) {
	c := &caller{cloud: newCloud(f, nil)}
	if _, _, err := c.cloud.RunInstance(f.Context(), InstanceSpec{ID: "i-1", Type: "ecs.sim.small", VSwitchID: DefaultNodeVSwitch}); err != nil {
		f.Fatal(err)
	}
	f.Add("CreateNetworkInterface", "VSwitchId=vsw-pods&SecurityGroupIds.1=sg-simulated&Tag.1.Key=a&ClientToken=t", true)
	f.Add("DescribeNetworkInterfaces", "NetworkInterfaceId.1=eni-sim00000003&MaxResults=10&NextToken=7", true)
	f.Add("AssignPrivateIpAddresses", "NetworkInterfaceId=eni-sim00000003&PrivateIpAddress.1=10.0.0.9", true)
	f.Add("DescribeInstances", `InstanceIds=["i-1"]`, true)
	f.Add("AttachNetworkInterface", "a=%zz&b;c", false)
	f.Fuzz(func(t *testing.T, action, query string, signed bool) {
		target := "/?" + query
		if values, err := url.ParseQuery(query); err == nil && signed {
			extra := map[string]string{}
			for k := range values {
				extra[k] = values.Get(k)
			}
			in := c.params(ecsVersion, action, extra)
			in["Signature"] = sign(stringToSign("POST", in), DefaultAccessSecret)
			target = "/?" + encode(in)
		}
		u, err := url.Parse("http://sim" + target)
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		c.cloud.Handler().ServeHTTP(w, &http.Request{Method: http.MethodPost, URL: u, Body: io.NopCloser(strings.NewReader(""))})
		var answer map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatalf("answer %q is no JSON: %v", w.Body, err)
		}
		if code, _ := answer["Code"].(string); (w.Code == 200) != (code == "") || w.Code >= 500 {
			t.Errorf("status %d, answer %v", w.Code, answer)
		}
		checkInvariants(t, c.cloud, nil)
	})
}

func FuzzPercentEncode(f *testing.F) {
	f.Add("a b*~+/é%00")
	f.Fuzz(func(t *testing.T, s string) {
		e := percentEncode(s)
		if got, err := url.PathUnescape(e); err != nil || got != s {
			t.Errorf("percentEncode(%q) = %q, which decodes to %q, %v", s, e, got, err)
		}
		// What the SDK does to its own encoder's output.
		sdk := strings.NewReplacer("+", "%20", "*", "%2A", "%7E", "~").Replace(url.QueryEscape(s))
		if e != sdk {
			t.Errorf("percentEncode(%q) = %q, the SDK has %q", s, e, sdk)
		}
	})
}
