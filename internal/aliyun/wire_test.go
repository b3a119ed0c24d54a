package aliyun

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseEndpoint(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ in, scheme, host string }{
		{"ecs.cn-hangzhou.aliyuncs.com", "HTTPS", "ecs.cn-hangzhou.aliyuncs.com"},
		{"100.100.100.200:80", "HTTPS", "100.100.100.200:80"},
		{"http://100.100.100.200", "", ""},
		{"http://127.0.0.1:80", "HTTP", "127.0.0.1:80"},
		{"127.0.0.1:8080", "HTTP", "127.0.0.1:8080"},
		{"[::1]:8080", "HTTP", "[::1]:8080"},
		{"localhost:1", "HTTP", "localhost:1"},
		{"https://127.0.0.1:8443/", "HTTPS", "127.0.0.1:8443"},
		{"localhost.example", "HTTPS", "localhost.example"},
		{"https://u:p@ecs.example", "", ""},
		{"ecs.example/x?y", "", ""},
		{"", "", ""},
		{":80", "", ""},
		{"gopher://x", "", ""},
	} {
		scheme, host, err := parseEndpoint(tc.in, false)
		if scheme != tc.scheme || host != tc.host || (err == nil) != (tc.host != "") {
			t.Errorf("parseEndpoint(%q) = %q, %q, %v; want %q, %q", tc.in, scheme, host, err, tc.scheme, tc.host)
		}
	}
	if scheme, host, err := parseEndpoint("http://100.100.100.200:80", true); err != nil || scheme != "HTTP" || host != "100.100.100.200:80" {
		t.Errorf("plain HTTP, allowed: %q, %q, %v", scheme, host, err)
	}
}

func TestVendorsEndpoints(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		product  string
		internal bool
		want     string
	}{
		{"ecs", false, "ecs.cn-hangzhou.aliyuncs.com"}, {"ecs", true, "ecs-vpc.cn-hangzhou.aliyuncs.com"},
		{"vpc", true, "vpc-vpc.cn-hangzhou.aliyuncs.com"}, {"sts", true, "sts-vpc.cn-hangzhou.aliyuncs.com"},
	} {
		scheme, host, err := location{region: "cn-hangzhou", internal: tc.internal, insecure: true}.endpoint(tc.product, "")
		if err != nil || scheme != "HTTPS" || host != tc.want {
			t.Errorf("endpoint of %s = %s %s, %v; want HTTPS %s", tc.product, scheme, host, err, tc.want)
		}
	}
}

// Every code that the API is known to answer with, each with any status: statuses differ between actions.
func TestClassOf(t *testing.T) {
	t.Parallel()
	for _, family := range []struct {
		class error
		codes []string
	}{
		{ErrThrottled, []string{"Throttling", "Throttling.User", "Throttling.Api", "Throttling.DeepPageSkip"}},
		{ErrVSwitchFull, []string{"InvalidVSwitchId.IpNotEnough", "QuotaExceeded.PrivateIpAddress"}},
		{ErrQuota, []string{"QuotaExceeded.Other"}},
		{ErrIPCount, []string{"InvalidOperation.Ipv4CountExceeded", "InvalidOperation.Ipv6CountExceeded"}},
		{ErrENICount, []string{"EniPerInstanceLimitExceeded"}},
		{ErrENITotal, []string{"MaxEniCountExceeded"}},
		{ErrGroupFull, []string{"SecurityGroupInstanceLimitExceed", "SecurityGroupInstanceLimitExceeded"}},
		{ErrForbidden, []string{
			"Forbidden.RAM", "Forbidden.SubUser", "Forbidden.NotSupportRAM", "InvalidUserType.NotSupported", "NoPermission",
			"InvalidAccessKeyId.NotFound", "InvalidAccessKeyId.Inactive", "Abs.InvalidAccount.NotFound", "SignatureDoesNotMatch",
			"SignatureNonceUsed", "IncompleteSignature", "InvalidTimeStamp.Expired", "InvalidSecurityToken.Expired",
			"MissingSecurityToken", "AuthenticationFail.NoPermission", "AuthenticationFail.OIDCToken.Expired", "EntityNotExist.Role",
		}},
		{ErrConflict, []string{
			"Operation.Conflict", "InvalidOperation.InvalidEcsState", "InvalidOperation.InvalidEniState", "IdempotentFailed",
			"IdempotentParameterMismatch", "IdempotentProcessing", "IncorrectStatus", "IncorrectInstanceStatus.Initializing",
		}},
		{ErrNotFound, []string{
			"InvalidEniId.NotFound", "InvalidEcsId.NotFound", "InvalidVSwitchId.NotFound", "InvalidSecurityGroupId.NotFound",
		}},
		{ErrUnavailable, []string{"InternalError", "ServiceUnavailable", "System.Busy"}},
		{nil, []string{
			"", "MissingParameter", "MissingParameter.X", "InvalidParameter", "UnsupportedParameter", "InvalidInstanceID.Malformed",
			"InvalidParams.EniId", "InvalidOperation.DetachPrimaryEniNotAllowed", "InvalidVSwitchId.IpInvalid",
			"InvalidIp.IpUnassigned", "InvalidIp.IpRepeated", "InvalidIp.Address", "InvalidIp.IpAssigned",
			"InvalidOperation.AvailabilityZoneMismatch", "InvalidOperation.VpcMismatch", "InvalidOperation.InvalidEniType",
			"InvalidSecurityGroupId.NotVpc", "InvalidAction.NotFound", "Operation.ConflictOfAnotherKind",
		}},
	} {
		for _, code := range family.codes {
			if got := classOf(code); got != family.class { //nolint:errorlint // the class itself, not what it wraps
				t.Errorf("classOf(%q) = %v, want %v", code, got, family.class)
			}
			for _, status := range []int{200, 400, 403, 404, 429} {
				err := fmt.Errorf("wrapped: %w", &APIError{Code: code, HTTPStatus: status})
				for _, class := range classes() {
					is := family.class != nil && errors.Is(family.class, class) || code == "" && status == 429 && class == ErrThrottled //nolint:errorlint // as above
					if errors.Is(err, class) != is {
						t.Errorf("%s with status %d: is %v: %v", code, status, class, !is)
					}
				}
			}
		}
	}
}

func classes() []error {
	return []error{
		ErrThrottled, ErrNotFound, ErrVSwitchFull, ErrQuota, ErrIPCount, ErrENICount, ErrENITotal, ErrGroupFull, ErrForbidden,
		ErrConflict, ErrUnavailable,
	}
}

func TestBackoffGrowsToItsLimit(t *testing.T) {
	t.Parallel()
	b := Backoff{}.complete()
	for try := 1; try <= 40; try++ {
		for _, err := range []error{ErrThrottled, ErrUnavailable} {
			if d := b.delay(try, err); d <= 0 || d > b.Limit {
				t.Errorf("delay(%d, %v) = %v", try, err, d)
			}
		}
	}
	if d := b.delay(1, ErrThrottled); d > b.Throttle {
		t.Errorf("first delay after throttling is %v", d)
	}
}

func TestParseTime(t *testing.T) {
	t.Parallel()
	want := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	for _, s := range []string{"2026-01-02T03:04Z", "2026-01-02T03:04:00Z", "2026-01-02T11:04:00+08:00"} {
		if got, err := parseTime(s); err != nil || !got.Equal(want) {
			t.Errorf("parseTime(%q) = %v, %v", s, got, err)
		}
	}
	if _, err := parseTime("yesterday"); err == nil {
		t.Error("parseTime accepts any word")
	}
}

func FuzzDecodeAnswers(f *testing.F) {
	f.Add([]byte(`{"NextToken":"","NetworkInterfaceSets":{"NetworkInterfaceSet":[{"NetworkInterfaceId":"eni-1","MacAddress":"00:16:3E:00:00:01","PrivateIpAddress":"10.0.0.1","PrivateIpSets":{"PrivateIpSet":[{"PrivateIpAddress":"10.0.0.1","Primary":true},{"PrivateIpAddress":"10.0.0.2"}]},"Ipv6Sets":{"Ipv6Set":[{"Ipv6Address":"2001:db8::1"}]},"Ipv4PrefixSets":{"Ipv4PrefixSet":[{"Ipv4Prefix":"10.0.0.16/28"}]},"QueueNumber":4,"Tags":{"Tag":[{"TagKey":"a","TagValue":"b"}]},"CreationTime":"2026-01-02T03:04Z"}]}}`))
	f.Add([]byte(`{"AssignedPrivateIpAddressesSet":{"PrivateIpSet":{"PrivateIpAddress":["10.0.0.3"]}}}`))
	f.Add([]byte(`{"InstanceTypes":{"InstanceType":[{"EniQuantity":"2","EniPrivateIpAddressQuantity":1e3}]},"VSwitches":{"VSwitch":[{"CidrBlock":"10.0.0.0/24","AvailableIpAddressCount":9}]}}`))
	f.Add([]byte(`{"Ipv6Sets":{"Ipv6Address":["2001:0db8:0:0:0:0:0:9"]},"VSwitches":{"VSwitch":[{"CidrBlock":"10.0.0.0/24","Ipv6CidrBlock":"2001:db8::/64","AvailableIpAddressCount":"9"}]}}`))
	f.Add([]byte(`{"Instances":{"Instance":[{"InstanceId":"i-1","VpcAttributes":{"VpcId":"v"},"EipAddress":{"IpAddress":"192.0.2.1"}}]}}`))
	f.Add([]byte(`{"Credentials":{"AccessKeyId":"STS.x","AccessKeySecret":"y","SecurityToken":"z","Expiration":"2026-01-02T15:04:05Z"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var enis wireENIPage
		if json.Unmarshal(body, &enis) == nil {
			for _, w := range enis.Sets.Set {
				e, err := w.eni()
				if err != nil {
					continue
				}
				if e.ID == "" || !e.PrimaryIP.Is4() || e.PrivateIPs[0] != e.PrimaryIP || e.MAC != strings.ToLower(e.MAC) {
					t.Errorf("accepted %+v", e)
				}
			}
		}
		var assigned wireAssigned
		if json.Unmarshal(body, &assigned) == nil {
			for _, family := range []Family{IPv4, IPv6} {
				addrs, err := assigned.addrs(family)
				if err != nil {
					continue
				}
				if len(addrs) == 0 || slices.ContainsFunc(addrs, func(a netip.Addr) bool { return FamilyOf(a) != family }) {
					t.Errorf("accepted %v as %v", addrs, family)
				}
			}
		}
		var types wireInstanceTypes
		if json.Unmarshal(body, &types) == nil {
			for _, w := range types.InstanceTypes.InstanceType {
				_, _ = w.instanceType()
			}
		}
		var vsw wireVSwitches
		if json.Unmarshal(body, &vsw) == nil {
			for _, w := range vsw.VSwitches.VSwitch {
				if v, err := w.vSwitch(); err == nil && v.CIDR != v.CIDR.Masked() {
					t.Errorf("accepted %+v", v)
				}
			}
		}
		var in wireInstances
		if json.Unmarshal(body, &in) == nil {
			for _, w := range in.Instances.Instance {
				if i, err := w.instance(); err == nil && i.PublicIP.IsValid() && !i.PublicIP.Is4() {
					t.Errorf("accepted %+v", i)
				}
			}
		}
		_ = json.Unmarshal(body, &wireSecurityGroups{})
		var role wireAssumedRole
		if json.Unmarshal(body, &role) == nil {
			if k, err := role.keys(); err == nil && (k.AccessKeyID == "" || k.AccessKeySecret == "" || k.SecurityToken == "" || k.Expires.IsZero()) {
				t.Errorf("accepted keys %+v", k)
			}
		}
	})
}

// What the API says of a wrong signature holds the security token, which must not get into logs and Events.
func TestMessagesAreFitToShow(t *testing.T) {
	t.Parallel()
	const secret = "CAISsecurityTOKEN"
	for name, tt := range map[string]struct{ body, want string }{
		"signature": {
			`{"Code":"SignatureDoesNotMatch","Message":"The signature does not match. server string to sign is:POST&%2F&SecurityToken%3D` + secret + `"}`,
			"The signature does not match. (what was signed is left out)",
		},
		"signature by header": {
			`{"Code":"SignatureDoesNotMatch","Message":"Wrong. Server Canonical Request is:POST\n/\nx-acs-security-token:` + secret + `\n, server string to sign is:x"}`,
			"Wrong. Server (what was signed is left out)",
		},
		"not the API's": {`<Message>server string to sign is:` + secret, `"<Message> (what was signed is left out)"`},
		"long":          {`{"Message":"` + strings.Repeat("é", 300) + `"}`, strings.Repeat("é", 248) + "..."},
		"short":         {`{"Message":"gone"}`, "gone"},
	} {
		e := decodeError("Action", 400, []byte(tt.body))
		if e.Message != tt.want || strings.Contains(e.Error(), secret) {
			t.Errorf("%s: %q, want %q", name, e.Message, tt.want)
		}
	}
}

func FuzzDecodeError(f *testing.F) {
	f.Add(502, []byte(`{"Code":502}`))
	f.Add(400, []byte(`{"Code":"Throttling","RequestId":"x","Message":null}`))
	f.Add(200, []byte(`<html>`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		e := decodeError("Action", status, body)
		if e.Error() == "" || e.HTTPStatus != status || len(e.Message) > maxMessage {
			t.Errorf("decodeError = %+v", e)
		}
		n := 0
		for _, class := range classes() {
			if errors.Is(e, class) && !errors.Is(class, ErrQuota) {
				n++
			}
		}
		if n > 1 {
			t.Errorf("%+v is in %d classes", e, n)
		}
	})
}

func FuzzMetadataValue(f *testing.F) {
	f.Add([]byte("i-bp67acfmxazb4p****"))
	f.Add([]byte("<html>"))
	f.Add([]byte("a\nb"))
	f.Fuzz(func(t *testing.T, body []byte) {
		v, err := metadataValue(body)
		if err == nil && (v == "" || len(v) > maxValue || strings.ContainsAny(v, " \n\t<") || url.PathEscape(v) == "") {
			t.Errorf("accepted %q", v)
		}
		if keys, err := decodeRoleKeys(body); err == nil && (keys.AccessKeyID == "" || keys.AccessKeySecret == "" || keys.Expires.IsZero()) {
			t.Errorf("accepted keys %+v", keys)
		}
	})
}

func FuzzParseEndpoint(f *testing.F) {
	f.Add("https://ecs.example", false)
	f.Add("[::1]:80", false)
	f.Add("http://user@host", false)
	f.Add("::0", false)
	f.Fuzz(func(t *testing.T, s string, insecure bool) {
		scheme, host, err := parseEndpoint(s, insecure)
		if err != nil {
			return
		}
		u, err := url.Parse(strings.ToLower(scheme) + "://" + host + "/")
		if err != nil || u.Host != host || u.User != nil || u.Path != "/" {
			t.Errorf("parseEndpoint(%q) = %q, %q, which is no base of a URL: %v", s, scheme, host, err)
		}
		if scheme == "HTTP" && !insecure && !isLoopback(u.Hostname()) {
			t.Errorf("parseEndpoint(%q) goes to %s without encryption", s, host)
		}
	})
}

func FuzzCredentialFile(f *testing.F) {
	f.Add([]byte(`{"accessKeyID":"a","accessKeySecret":"b","securityToken":"c","expiration":"2026-01-02T15:04:05Z"}`), "default")
	f.Add([]byte("[default]\ntype = access_key\naccess_key_id = a\naccess_key_secret = b\n"), "default")
	f.Add([]byte("; x\n[blue]\ntype=sts\naccess_key_id=a\naccess_key_secret=b\nsecurity_token=c=="), "blue")
	f.Add([]byte(`{"access.key.id":"x","keyring":"y"}`), "")
	f.Add([]byte("["), "")
	f.Fuzz(func(t *testing.T, text []byte, profile string) {
		keys, err := parseCredentialFile(text, profile)
		if (err == nil) != (keys.AccessKeyID != "" && keys.AccessKeySecret != "") {
			t.Errorf("%q gave %+v, %v", text, keys, err)
		}
	})
}
