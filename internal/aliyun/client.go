package aliyun

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
)

// Config is what NewClient needs.
type Config struct {
	RegionID string
	// Endpoint of the ECS API: "host", "host:port", or either with http:// or https:// before it. Without a scheme it is
	// HTTPS, or HTTP on loopback. Empty means the vendor's of the region.
	Endpoint string
	// VPCEndpoint of the VPC API, in the same forms. Empty means Endpoint if that is set, else the vendor's.
	VPCEndpoint string
	// PVTZEndpoint of the PrivateZone API, in the same forms. Empty means Endpoint if that is set, else the vendor's.
	PVTZEndpoint string
	// Internal chooses those of the vendor's endpoints that are reached from inside a VPC without a way to the Internet.
	Internal bool
	// InsecureHTTP allows endpoints with http:// that are not on loopback. The keys' secrets stay secret, but requests can
	// be read, and answers forged: it is for simulated clouds.
	InsecureHTTP bool
	Credentials  Credentials
	// RateLimits are calls per minute by action, such as "AssignPrivateIpAddresses": 30, each with a burst of a third of
	// it. Actions it lacks have 30, DescribeNetworkInterfaces 60. For a PrivateZone's actions see NewPrivateZone. While the cloud throttles an action its limit falls.
	RateLimits map[string]int
	Backoff    Backoff
	// Transport carries the requests, for clouds that are not reached over a network; nil: the network.
	Transport http.RoundTripper
	Metrics   prometheus.Registerer // nil: none
	Logger    *slog.Logger          // nil: discard
}

// A Client calls the ECS and VPC APIs. It is safe for concurrent use. Calls are repeated within bounds when the cloud
// throttles or does not answer, and wait for the budget of their action, first come first served; a call that changes something without a client token is repeated only when the first
// try cannot have had an effect.
type Client struct {
	caller *caller
	ecs    product
	vpc    product
}

// NewClient returns a client. It makes no call.
func NewClient(cfg Config) (*Client, error) {
	caller, err := newCaller(cfg)
	if err != nil {
		return nil, fmt.Errorf("configure the cloud client: %w", err)
	}
	c := &Client{
		caller: caller,
		ecs:    product{name: "Ecs", version: "2014-05-26"},
		vpc:    product{name: "Vpc", version: "2016-04-28"},
	}
	ecsEndpoint, vpcEndpoint := cfg.Endpoint, cfg.VPCEndpoint
	if vpcEndpoint == "" {
		vpcEndpoint = ecsEndpoint
	}
	where := location{region: cfg.RegionID, internal: cfg.Internal, insecure: cfg.InsecureHTTP}
	if c.ecs.scheme, c.ecs.host, err = where.endpoint("ecs", ecsEndpoint); err != nil {
		return nil, fmt.Errorf("configure the ECS client: %w", err)
	}
	if c.vpc.scheme, c.vpc.host, err = where.endpoint("vpc", vpcEndpoint); err != nil {
		return nil, fmt.Errorf("configure the VPC client: %w", err)
	}
	return c, c.caller.metrics.register(cfg.Metrics)
}

// SetRateLimits replaces Config.RateLimits. Calls that wait already go on under the new limits.
func (c *Client) SetRateLimits(rates map[string]int) error { return c.caller.limits.resize(rates) }

// read sends an action of the ECS API that changes nothing.
func (c *Client) read(ctx context.Context, action string, p params, answer any) error {
	return c.caller.call(ctx, request{&c.ecs, action, p, true}, answer)
}

// readVPC sends an action of the VPC API that changes nothing.
func (c *Client) readVPC(ctx context.Context, action string, p params, answer any) error {
	return c.caller.call(ctx, request{&c.vpc, action, p, true}, answer)
}

// repeatable sends an action of the ECS API that may be done twice.
func (c *Client) repeatable(ctx context.Context, action string, p params) error {
	return c.caller.call(ctx, request{&c.ecs, action, p, true}, &struct{}{})
}

// once sends an action of the ECS API that may not be done twice.
func (c *Client) once(ctx context.Context, action string, p params) error {
	return c.caller.call(ctx, request{&c.ecs, action, p, false}, &struct{}{})
}
