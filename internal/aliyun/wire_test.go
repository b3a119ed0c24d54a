package aliyun

import (
	"encoding/json"
	"errors"
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
		{"http://100.100.100.200", "HTTP", "100.100.100.200"},
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
		scheme, host, err := parseEndpoint(tc.in)
		if scheme != tc.scheme || host != tc.host || (err == nil) != (tc.host != "") {
			t.Errorf("parseEndpoint(%q) = %q, %q, %v; want %q, %q", tc.in, scheme, host, err, tc.scheme, tc.host)
		}
	}
}

func TestClassOf(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]error{
		"Throttling":                           ErrThrottled,
		"Throttling.DeepPageSkip":              ErrThrottled,
		"InvalidVSwitchId.IpNotEnough":         ErrVSwitchFull,
		"QuotaExceeded.PrivateIpAddress":       ErrVSwitchFull,
		"QuotaExceeded.Other":                  ErrQuota,
		"InvalidAccessKeyId.NotFound":          ErrForbidden,
		"InvalidSecurityToken.Expired":         ErrForbidden,
		"Forbidden.RAM":                        ErrForbidden,
		"InvalidTimeStamp.Expired":             ErrForbidden,
		"InvalidEniId.NotFound":                ErrNotFound,
		"InvalidAction.NotFound":               nil,
		"Operation.Conflict":                   ErrConflict,
		"Operation.ConflictOfAnotherKind":      nil,
		"IncorrectInstanceStatus.Initializing": ErrConflict,
		"System.Busy":                          ErrUnavailable,
		"MissingParameter.X":                   nil,
		"":                                     nil,
	} {
		if got := classOf(code); !errors.Is(got, want) {
			t.Errorf("classOf(%q) = %v, want %v", code, got, want)
		}
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
	})
}

func FuzzDecodeError(f *testing.F) {
	f.Add(502, []byte(`{"Code":502}`))
	f.Add(400, []byte(`{"Code":"Throttling","RequestId":"x","Message":null}`))
	f.Add(200, []byte(`<html>`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		e := decodeError("Action", status, body)
		if e.Error() == "" || e.HTTPStatus != status {
			t.Errorf("decodeError = %+v", e)
		}
		n := 0
		for _, class := range []error{ErrThrottled, ErrNotFound, ErrVSwitchFull, ErrQuota, ErrForbidden, ErrConflict, ErrUnavailable} {
			if errors.Is(e, class) {
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
	f.Add("https://ecs.example")
	f.Add("[::1]:80")
	f.Add("http://user@host")
	f.Add("::0")
	f.Fuzz(func(t *testing.T, s string) {
		scheme, host, err := parseEndpoint(s)
		if err != nil {
			return
		}
		u, err := url.Parse(strings.ToLower(scheme) + "://" + host + "/")
		if err != nil || u.Host != host || u.User != nil || u.Path != "/" {
			t.Errorf("parseEndpoint(%q) = %q, %q, which is no base of a URL: %v", s, scheme, host, err)
		}
	})
}
