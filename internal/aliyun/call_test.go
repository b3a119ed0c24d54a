package aliyun_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nearpath/nearpath/internal/aliyun"
)

var testKeys = aliyun.StaticCredentials{AccessKeyID: "key", AccessKeySecret: "hidden-secret"}

// The SDK panics on some of these bodies and follows redirects; what comes out must be a class and no more.
func TestStrangeAnswers(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a signed request was sent elsewhere")
	}))
	t.Cleanup(elsewhere.Close)
	cases := []struct {
		name   string
		status int
		body   string
		class  error // nil: none
		code   string
	}{
		{"numeric code", 502, `{"Code":502,"Message":"bad gateway"}`, aliyun.ErrUnavailable, "502"},
		{"numeric message and request", 400, `{"Code":"Throttling.Api","Message":1,"RequestId":2}`, aliyun.ErrThrottled, "Throttling.Api"},
		{"object for a code", 400, `{"Code":{}}`, nil, ""},
		{"page of a proxy", 503, `<html>unavailable</html>`, aliyun.ErrUnavailable, ""},
		{"too many, without a code", 429, ``, aliyun.ErrThrottled, ""},
		{"list", 400, `[]`, nil, ""},
		{"empty", 404, ``, nil, ""},
		{"redirect", 307, ``, nil, ""},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", elsewhere.URL)
				w.WriteHeader(tc.status)
				_, _ = w.Write([]byte(tc.body))
			}))
			t.Cleanup(server.Close)
			_, err := clientOf(t, server.URL, testKeys).DescribeInstance(t.Context(), "i-1")
			api, ok := errors.AsType[*aliyun.APIError](err)
			if !ok || api.Code != tc.code || api.HTTPStatus != tc.status {
				t.Fatalf("error %v (%+v), want code %q and status %d", err, api, tc.code, tc.status)
			}
			if tc.class != nil && !errors.Is(err, tc.class) {
				t.Errorf("error %v is not %v", err, tc.class)
			}
		})
	}
}

func TestStrangeSuccess(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"page":         `<html>log in</html>`,
		"cut off":      `{"NetworkInterfaceSets":{"Netw`,
		"bad address":  `{"NetworkInterfaceSets":{"NetworkInterfaceSet":[{"NetworkInterfaceId":"eni-1","MacAddress":"00:16:3e:00:00:01","PrivateIpAddress":"x"}]}}`,
		"IPv6 address": `{"NetworkInterfaceSets":{"NetworkInterfaceSet":[{"NetworkInterfaceId":"eni-1","MacAddress":"00:16:3e:00:00:01","PrivateIpAddress":"::1"}]}}`,
		"bad MAC":      `{"NetworkInterfaceSets":{"NetworkInterfaceSet":[{"NetworkInterfaceId":"eni-1","MacAddress":"?","PrivateIpAddress":"10.0.0.1"}]}}`,
		"no ID":        `{"NetworkInterfaceSets":{"NetworkInterfaceSet":[{}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write([]byte(body))
			}))
			t.Cleanup(server.Close)
			enis, err := clientOf(t, server.URL, testKeys).DescribeENIs(t.Context(), aliyun.ENIFilter{IDs: []string{"eni-1"}})
			if err == nil || enis != nil {
				t.Errorf("DescribeENIs = %v, %v; want an error and nothing", enis, err)
			}
		})
	}
}

func TestNumbersMayBeStrings(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"InstanceTypes":{"InstanceType":[{"InstanceTypeId":"t","EniQuantity":"3","EniPrivateIpAddressQuantity":10}]}}`))
	}))
	t.Cleanup(server.Close)
	got, err := clientOf(t, server.URL, testKeys).DescribeInstanceType(t.Context(), "t")
	if want := (aliyun.InstanceType{ID: "t", ENIs: 3, AddressesPerENI: 10}); err != nil || got != want {
		t.Errorf("instance type = %+v, %v; want %+v", got, err, want)
	}
}

// A refused connection is tried again even for a change, and the error shows neither the URL nor the secret.
func TestRefusedConnection(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	err := clientOf(t, server.URL, testKeys).AttachENI(t.Context(), "eni-1", "i-1")
	if !errors.Is(err, aliyun.ErrUnavailable) {
		t.Errorf("error %v, want ErrUnavailable", err)
	}
	if s := err.Error(); strings.Contains(s, "Signature") || strings.Contains(s, "AccessKey") {
		t.Errorf("error shows the signed URL: %s", s)
	}
}

func TestCutConnectionIsNotRepeatedForAChange(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		calls.Add(1)
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(server.Close)
	client := clientOf(t, server.URL, testKeys)
	if err := client.AttachENI(t.Context(), "eni-1", "i-1"); !errors.Is(err, aliyun.ErrUnavailable) || calls.Load() != 1 {
		t.Errorf("attach: %v after %d calls, want ErrUnavailable after 1", err, calls.Load())
	}
	calls.Store(0)
	if _, err := client.DescribeInstance(t.Context(), "i-1"); !errors.Is(err, aliyun.ErrUnavailable) || calls.Load() != 6 {
		t.Errorf("describe: %v after %d calls, want ErrUnavailable after 6", err, calls.Load())
	}
}

func TestNewClientRefuses(t *testing.T) {
	t.Parallel()
	good := aliyun.Config{RegionID: "cn-hangzhou", Credentials: testKeys}
	if _, err := aliyun.NewClient(good); err != nil {
		t.Errorf("good configuration: %v", err)
	}
	open := good
	open.Endpoint, open.InsecureHTTP = "http://100.100.100.200:80", true
	if _, err := aliyun.NewClient(open); err != nil {
		t.Errorf("plain HTTP, allowed: %v", err)
	}
	for name, change := range map[string]func(*aliyun.Config){
		"region":       func(c *aliyun.Config) { c.RegionID = "cn hangzhou" },
		"no region":    func(c *aliyun.Config) { c.RegionID = "" },
		"credentials":  func(c *aliyun.Config) { c.Credentials = nil },
		"endpoint":     func(c *aliyun.Config) { c.Endpoint = "https://ecs.example/path" },
		"scheme":       func(c *aliyun.Config) { c.Endpoint = "ftp://ecs.example" },
		"VPC endpoint": func(c *aliyun.Config) { c.VPCEndpoint = "://" },
		"plain HTTP":   func(c *aliyun.Config) { c.Endpoint = "http://100.100.100.200:80" },
		"rate limit":   func(c *aliyun.Config) { c.RateLimits = map[string]int{"DescribeInstances": -1} },
	} {
		bad := good
		change(&bad)
		if _, err := aliyun.NewClient(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// The SDK takes NO_PROXY for regular expressions and fails on one that is none.
func TestProxyEnvironment(t *testing.T) {
	t.Setenv("NO_PROXY", "[fd00::/8,127.0.0.1")
	_, url := cloudOf(t, nil)
	if _, err := clientOf(t, url, nil).DescribeInstance(t.Context(), "i-1"); err != nil {
		t.Error(err)
	}
}
