package aliyun

import (
	"errors"
	"fmt"
	"testing"
)

// Every code PrivateZone is known to answer with, through what its changes make of it.
func TestPrivateZoneCodes(t *testing.T) {
	t.Parallel()
	all := append(classes(), ErrRecordConflict, ErrZoneGone, ErrInvalidRecord)
	for _, tc := range []struct {
		class error
		codes []string
	}{
		{ErrThrottled, []string{"Throttling.User", "Throttling", "Throttling.Api"}},
		{ErrUnavailable, []string{"System.Busy", "ServiceUnavailable", "InternalError"}},
		{ErrRecordConflict, []string{"Record.Invalid.Conflict"}},
		{ErrZoneGone, []string{"Zone.NotExists", "Zone.Invalid.Id", "Zone.Invalid.UserId", "ZoneVpc.NotExists.VpcId"}},
		{ErrInvalidRecord, []string{
			"Zone.Remark", "Record.Invalid.Rr", "Record.Invalid.Value", "Record.Invalid.Ttl", "Record.Invalid.Type",
			"MissingParameter.Rr", "InvalidParameter", "UnsupportedParameter", "Rr.IllegalByRule",
		}},
		{ErrForbidden, []string{
			"Forbidden.RAM", "NoPermission", "InvalidAccessKeyId.NotFound", "SignatureDoesNotMatch", "InvalidSecurityToken.Expired",
			"SignatureNonceUsed", "InvalidTimeStamp.Expired",
		}},
		{ErrQuota, []string{"QuotaExceeded.Record"}},
		{ErrConflict, []string{"IdempotentParameterMismatch"}},
		{nil, []string{"Record.NotExists", "InvalidAction.NotFound", "InvalidVersion"}},
	} {
		for _, code := range tc.codes {
			for _, status := range []int{400, 403, 404} {
				err := perRecord(fmt.Errorf("wrapped: %w", &APIError{Action: "AddZoneRecord", Code: code, HTTPStatus: status}))
				for _, class := range all {
					if is := class == tc.class; errors.Is(err, class) != is { //nolint:errorlint // the class itself
						t.Errorf("%s with status %d: is %v: %v, want %v", code, status, class, !is, is)
					}
				}
			}
		}
	}
	for name, err := range map[string]error{
		"a proxy's page":  &APIError{HTTPStatus: 404},
		"a broken server": &APIError{HTTPStatus: 500, Code: "Unknown"},
		"no answer":       &transportError{action: "AddZoneRecord"},
	} {
		if errors.Is(perRecord(err), ErrInvalidRecord) {
			t.Errorf("%s is an invalid record", name)
		}
	}
}

func TestPrivateZoneEndpoint(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		cfg          Config
		scheme, host string
	}{
		{Config{}, "HTTPS", "pvtz.aliyuncs.com"},
		{Config{Internal: true}, "HTTPS", "pvtz.vpc-proxy.aliyuncs.com"},
		{Config{Internal: true, Endpoint: "127.0.0.1:8100"}, "HTTP", "127.0.0.1:8100"},
		{Config{PVTZEndpoint: "https://pvtz.example", Endpoint: "127.0.0.1:8100"}, "HTTPS", "pvtz.example"},
	} {
		scheme, host, err := privateZoneEndpoint(tc.cfg)
		if err != nil || scheme != tc.scheme || host != tc.host {
			t.Errorf("endpoint of %+v = %s %s, %v; want %s %s", tc.cfg, scheme, host, err, tc.scheme, tc.host)
		}
	}
	for name, cfg := range map[string]Config{
		"endpoint":   {RegionID: "r", Credentials: StaticCredentials{}, PVTZEndpoint: "ftp://x"},
		"region":     {Credentials: StaticCredentials{}},
		"plain HTTP": {RegionID: "r", Credentials: StaticCredentials{}, PVTZEndpoint: "http://192.0.2.1"},
	} {
		if _, err := NewPrivateZone(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
