package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/nearpath/nearpath/test/netlab"
)

// errNotFound is what get returns for an object that does not exist.
var errNotFound = errors.New("not found")

// An apiClient reads from the API: for waits, which ask often, a process of kubectl each time would be too dear.
type apiClient struct {
	http  *http.Client
	base  string
	token string
}

func newAPIClient(cp ControlPlane, ca []byte, token string) (apiClient, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return apiClient{}, errors.New("read API certificate: not complete")
	}
	return apiClient{
		http: &http.Client{
			Timeout:   10 * time.Second,
			Transport: &http.Transport{DialContext: dialIn(cp.NetNS), TLSClientConfig: &tls.Config{RootCAs: roots}},
		},
		base:  fmt.Sprintf("https://%s:%d", cp.Addr, apiPort),
		token: token,
	}, nil
}

// get returns the body of the answer to a GET of path.
func (a apiClient) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	return do(a.http, req)
}

func do(client *http.Client, req *http.Request) ([]byte, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("get %s: %w", req.URL.Path, errNotFound)
	case resp.StatusCode >= http.StatusBadRequest:
		return nil, fmt.Errorf("get %s: %s: %.300s", req.URL.Path, resp.Status, body)
	}
	return body, nil
}

// healthy asks a health URL of a program in the control plane's network namespace.
func (c *Cluster) healthy(url string) func(context.Context) error {
	return healthyIn(c.cfg.ControlPlane.NetNS, url)
}

// healthyIn asks a health URL in ns. The programs' certificates are their own: they are not verified.
func healthyIn(ns *netlab.NetNS, url string) func(context.Context) error {
	client := &http.Client{
		Timeout: 2 * time.Second,
		Transport: &http.Transport{
			DialContext:       dialIn(ns),
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		},
	}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		_, err = do(client, req)
		return err
	}
}

// dialIn dials inside ns; addresses have to be numeric, so that it is this goroutine that makes the socket.
func dialIn(ns *netlab.NetNS) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = ns.Do(func() error {
			var d net.Dialer
			var dialErr error
			conn, dialErr = d.DialContext(ctx, network, addr)
			return dialErr
		})
		return conn, err
	}
}

// DialContext dials an address as a program in the control plane's network namespace would. It fits http.Transport
// and the Dial of a Kubernetes client's configuration.
func (c *Cluster) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return dialIn(c.cfg.ControlPlane.NetNS)(ctx, network, addr)
}
