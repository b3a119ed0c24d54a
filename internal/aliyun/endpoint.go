package aliyun

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
)

// parseEndpoint returns scheme and host. Plain HTTP is for loopback and for endpoints that ask for it by name.
func parseEndpoint(endpoint string) (scheme, host string, err error) {
	scheme, host, found := strings.Cut(endpoint, "://")
	if !found {
		scheme, host = "", endpoint
	}
	host = strings.TrimSuffix(host, "/")
	u, err := url.Parse("https://" + host) // stricter about ports than without a scheme
	if err != nil || u.Host != host || u.Hostname() == "" {
		return "", "", fmt.Errorf("endpoint %q is not host, host:port or a URL without a path", endpoint)
	}
	switch scheme {
	case "http":
		return requests.HTTP, host, nil
	case "https":
		return requests.HTTPS, host, nil
	case "":
		if isLoopback(u.Hostname()) {
			return requests.HTTP, host, nil
		}
		return requests.HTTPS, host, nil
	}
	return "", "", fmt.Errorf("endpoint %q has the scheme %q, want http or https", endpoint, scheme)
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
