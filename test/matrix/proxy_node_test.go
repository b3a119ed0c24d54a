//go:build node

package matrix

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// healthChecked is a Service that load balancers ask the node for, with an endpoint on the node that is ready or not.
const healthChecked = `
apiVersion: v1
kind: Service
metadata: {name: checked, namespace: default}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 32001
  clusterIPs: [10.96.77.1]
  ports: [{name: http, port: 80, nodePort: 32002}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: checked-1, namespace: default, labels: {kubernetes.io/service-name: checked}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.77.0.1], nodeName: NODE, conditions: {ready: READY}}]
`

// proxyEndpoints asks a running agent what kube-proxy would be asked (H1, H2, H3, H4).
func (n *node) proxyEndpoints(t *testing.T) {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			err = n.NetNS().Do(func() (err error) {
				var d net.Dialer
				conn, err = d.DialContext(ctx, network, address)
				return err
			})
			return conn, err
		},
	}}
	want := func(row, url string, status int, parts ...string) {
		t.Helper()
		ok(t, await(2*patience, row+" "+url, func() error {
			r, err := client.Get("http://" + url)
			if err != nil {
				return err
			}
			defer r.Body.Close()
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			for _, part := range parts {
				if r.StatusCode != status || !strings.Contains(string(body), part) {
					return fmt.Errorf("%d %s, want %d %s", r.StatusCode, body, status, part)
				}
			}
			return nil
		}))
	}
	manifest := filepath.Join(n.rig.manifestDir(), "checked.yaml")
	put := func(ready string) {
		t.Helper()
		ok(t, writeFile(manifest, strings.NewReplacer("NODE", n.Name(), "READY", ready).Replace(healthChecked)))
	}
	want("H3", "127.0.0.1:10249/proxyMode", http.StatusOK, "nearpath")
	want("H2", "127.0.0.1:10256/healthz", http.StatusOK, `"nodeEligible":true`, `"healthy":true`, `"IPv6"`)
	put("false")
	want("H1", "127.0.0.1:32001/", http.StatusServiceUnavailable, `"localEndpoints": 0`, `"serviceProxyHealthy": true`)
	put("true")
	want("H1", "127.0.0.1:32001/", http.StatusOK, `"localEndpoints": 1`)
	want("H4", "127.0.0.1:10249/metrics", http.StatusOK, `kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}`,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"} 0`, `kubeproxy_proxy_healthz_total{code="200"} 1`)
}
