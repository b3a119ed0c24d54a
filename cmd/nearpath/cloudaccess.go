package main

import (
	"log/slog"
	"slices"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/strict"
)

// cloudAccess is how the cloud is reached, and as whom. Agent and syncer have these keys in common.
type cloudAccess struct {
	// STSEndpoint is the API that gives temporary keys, "host:port" or a URL; empty means the vendor's for the region.
	// Internal chooses those of the vendor's APIs that are reached from inside a VPC.
	STSEndpoint string `json:"stsEndpoint"`
	Internal    bool   `json:"internal"`
	// InsecureHTTP allows plain HTTP to an endpoint that is not on loopback, which a simulated cloud needs.
	InsecureHTTP bool `json:"insecureHTTP"`
	// Metadata is the base URL of the instance metadata service.
	Metadata string `json:"metadata"`
	// AccessKeyID and AccessKeySecret are used when set, then CredentialFile, then the service account's token by the
	// ALIBABA_CLOUD_* variables (RRSA), and the instance's RAM role otherwise.
	AccessKeyID     string `json:"accessKeyID"`
	AccessKeySecret string `json:"accessKeySecret"`
	CredentialFile  string `json:"credentialFile"`
	// RateLimits bounds calls per minute by action, such as AssignPrivateIpAddresses: 30.
	RateLimits map[string]int `json:"rateLimits"`
}

func defaultCloudAccess() cloudAccess { return cloudAccess{Metadata: "http://100.100.100.200"} }

func (c cloudAccess) check() []strict.Rule {
	return []strict.Rule{
		{OK: (c.AccessKeyID == "") == (c.AccessKeySecret == ""), Path: "cloud.accessKeyID", Value: c.AccessKeyID, Fix: "set it together with cloud.accessKeySecret, or neither for other credentials"},
		{OK: c.CredentialFile == "" || c.AccessKeyID == "", Path: "cloud.credentialFile", Value: c.CredentialFile, Fix: "set it or cloud.accessKeyID, not both"},
		{OK: !slices.ContainsFunc(valuesOf(c.RateLimits), func(n int) bool { return n < 1 }), Path: "cloud.rateLimits", Value: c.RateLimits, Fix: "use numbers of calls per minute of at least 1"},
	}
}

// credentials chooses who asks the cloud. It makes no call.
func (c cloudAccess) credentials(region string, metadata *aliyun.Metadata, log *slog.Logger) (aliyun.Credentials, error) {
	creds, source, err := aliyun.ChooseCredentials(aliyun.CredentialConfig{
		AccessKeyID: c.AccessKeyID, AccessKeySecret: c.AccessKeySecret, File: c.CredentialFile, Metadata: metadata,
		RegionID: region, STSEndpoint: c.STSEndpoint, Internal: c.Internal, InsecureHTTP: c.InsecureHTTP, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	log.Info("cloud credentials chosen", "source", source)
	return creds, nil
}
