package aliyun

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
)

// A location decides where the APIs are.
type location struct {
	region   string
	internal bool // from inside a VPC
	insecure bool // plain HTTP off loopback is allowed
}

// endpoint returns scheme and host of a product. Without a configured endpoint it is the vendor's regional one:
// <product>.<region>.aliyuncs.com, or <product>-vpc.<region>.aliyuncs.com from inside a VPC.
func (l location) endpoint(product, configured string) (scheme, host string, err error) {
	if configured == "" {
		if l.internal {
			product += "-vpc"
		}
		configured = product + "." + l.region + ".aliyuncs.com"
	}
	return parseEndpoint(configured, l.insecure)
}

// parseEndpoint returns scheme and host. Requests carry the key ID and a signature in the clear, so plain HTTP is for
// loopback, and beyond it only where insecure allows it and the endpoint asks for it.
func parseEndpoint(endpoint string, insecure bool) (scheme, host string, err error) {
	scheme, host, found := strings.Cut(endpoint, "://")
	if !found {
		scheme, host = "", endpoint
	}
	host = strings.TrimSuffix(host, "/")
	u, err := url.Parse("https://" + host) // stricter about ports than without a scheme
	if err != nil || u.Host != host || u.Hostname() == "" {
		return "", "", fmt.Errorf("endpoint %q is not host, host:port or a URL without a path", endpoint)
	}
	local := isLoopback(u.Hostname())
	switch {
	case scheme == "https", scheme == "" && !local:
		return requests.HTTPS, host, nil
	case scheme == "", scheme == "http" && (local || insecure):
		return requests.HTTP, host, nil
	case scheme == "http":
		return "", "", fmt.Errorf("endpoint %q is plain HTTP and not on loopback: use https://, or allow it with insecureHTTP", endpoint)
	}
	return "", "", fmt.Errorf("endpoint %q has the scheme %q, want http or https", endpoint, scheme)
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
