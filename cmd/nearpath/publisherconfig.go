package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nearpath/nearpath/externaldns"
	"github.com/nearpath/nearpath/internal/strict"
)

// A publisherConfig is the configuration file of "nearpath externaldns". What decides whose records are and what may be
// done to them has no default: ownerID, policy, names.sources, cloud.region.
type publisherConfig struct {
	// OwnerID names this cluster: every record of ours carries it, and only such records are ever changed. No two clusters
	// may have the same one. Records of FormerOwnerIDs are taken over.
	OwnerID        string   `json:"ownerID"`
	FormerOwnerIDs []string `json:"formerOwnerIDs"`
	// Policy is sync, upsert-only or create-only.
	Policy string `json:"policy"`
	// Claim makes foreign records ours that have the very value that is wanted. Join adds values to names that have foreign
	// records of the type.
	Claim bool `json:"claim"`
	Join  bool `json:"join"`
	// DryRun only logs what would be written.
	DryRun bool `json:"dryRun"`

	// Kubeconfig and Manifests say where objects come from; neither means the API server of the pod's cluster.
	Kubeconfig string `json:"kubeconfig"`
	Manifests  string `json:"manifests"`

	// Listen is the loopback address of /healthz, /readyz and /metrics, Socket where the verbs of "nearpath zone" ask.
	Listen   netip.AddrPort `json:"listen"`
	Socket   string         `json:"socket"`
	LogLevel slog.Level     `json:"logLevel"`

	Cloud          zoneCloudConfig `json:"cloud"`
	Zones          zonesConfig     `json:"zones"`
	Names          namesConfig     `json:"names"`
	Guard          guardConfig     `json:"guard"`
	LeaderElection leaseConfig     `json:"leaderElection"`

	// AuditInterval is how often each zone is listed whole, HintInterval how often edits of others are looked for.
	AuditInterval duration `json:"auditInterval"`
	HintInterval  duration `json:"hintInterval"`
}

// zoneCloudConfig is how PrivateZone is reached. The vendor has one API for all regions.
type zoneCloudConfig struct {
	cloudAccess
	// Region is where temporary keys come from, and what requests name.
	Region string `json:"region"`
	// PVTZEndpoint is the API, "host:port" or a URL; empty means the vendor's.
	PVTZEndpoint string `json:"pvtzEndpoint"`
}

// zonesConfig says which zones are written to: those bound to a VPC, but for these conditions.
type zonesConfig struct {
	IDs     []string `json:"ids"`     // only these
	Domains []string `json:"domains"` // only zones that are one of these or below one
	VPC     string   `json:"vpc"`     // only zones bound to this VPC
}

// namesConfig says which objects get which names; the keys are those of externaldns.Rules.
type namesConfig struct {
	Sources           []string `json:"sources"`
	Templates         []string `json:"templates"`
	Combine           bool     `json:"combine"`
	Namespaces        []string `json:"namespaces"`
	ExcludeNamespaces []string `json:"excludeNamespaces"`
	Labels            string   `json:"labels"`
	ExcludeLabels     string   `json:"excludeLabels"`
	Domains           []string `json:"domains"`
	ExcludeDomains    []string `json:"excludeDomains"`
	IngressClasses    []string `json:"ingressClasses"`
	TTL               int      `json:"ttl"` // seconds
	PublishInternal   bool     `json:"publishInternal"`
	PTR               bool     `json:"ptr"`
	Access            string   `json:"access"`
}

// guardConfig is the mass-delete guard's.
type guardConfig struct {
	// Within Window a zone may lose Percent of our records, but Floor in any case; more is held.
	Floor   int      `json:"floor"`
	Percent int      `json:"percent"`
	Window  duration `json:"window"`
	// Grace ends a hold by itself; 0s: only a release does.
	Grace            duration `json:"grace"`
	DeletesPerMinute int      `json:"deletesPerMinute"`
}

// leaseConfig says whether replicas elect one of them to write, and by which Lease.
type leaseConfig struct {
	Enabled   bool   `json:"enabled"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

const publisherSocket = "/run/nearpath/externaldns.sock"

func defaultPublisherConfig() publisherConfig {
	return publisherConfig{
		Listen: netip.MustParseAddrPort("127.0.0.1:9441"), Socket: publisherSocket,
		Cloud:          zoneCloudConfig{cloudAccess: defaultCloudAccess()},
		Names:          namesConfig{TTL: 60},
		Guard:          guardConfig{Floor: 10, Percent: 20, Window: duration(10 * time.Minute), DeletesPerMinute: 600},
		LeaderElection: leaseConfig{Namespace: "kube-system", Name: "nearpath-externaldns"},
		AuditInterval:  duration(4 * time.Hour), HintInterval: duration(time.Minute),
	}
}

// readPublisherConfig lays the file over the defaults and checks the whole.
func readPublisherConfig(path string) (publisherConfig, error) {
	c := defaultPublisherConfig()
	if path == "" {
		return c, errors.New("--config is missing: name the syncer's configuration file")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	if err := errors.Join(strict.Unmarshal(text, &c), c.check()); err != nil {
		return c, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return c, nil
}

// check names every field that cannot be right, its value and what to do about it.
func (c publisherConfig) check() error {
	_, ownerErr := externaldns.ParseOwner(c.OwnerID)
	rules := []strict.Rule{
		{OK: ownerErr == nil, Path: "ownerID", Value: c.OwnerID, Fix: "give this cluster a name of its own: 1 to 16 of a-z and 0-9, between them also - and _"},
		{OK: slices.Contains(publishPolicies(), c.Policy), Path: "policy", Value: c.Policy, Fix: "use " + strings.Join(publishPolicies(), ", ") + "; it has no default"},
		{OK: c.Kubeconfig == "" || c.Manifests == "", Path: "manifests", Value: c.Manifests, Fix: "objects come from kubeconfig or from manifests: set one of them"},
		{OK: c.Listen.Addr().IsLoopback(), Path: "listen", Value: c.Listen, Fix: "use a loopback address"},
		{OK: filepath.IsAbs(c.Socket), Path: "socket", Value: c.Socket, Fix: "use an absolute path"},
		{OK: c.AuditInterval >= duration(time.Minute), Path: "auditInterval", Value: time.Duration(c.AuditInterval), Fix: "use a duration of at least 1m"},
		{OK: c.HintInterval >= duration(time.Second), Path: "hintInterval", Value: time.Duration(c.HintInterval), Fix: "use a duration of at least 1s"},
		{OK: len(c.Names.Sources) > 0, Path: "names.sources", Value: "", Fix: "name the kinds of objects to publish, such as service"},
		{OK: !hasBlank(c.Zones.IDs), Path: "zones.ids", Value: c.Zones.IDs, Fix: "use the IDs of zones, none of them empty or twice"},
		{OK: c.Cloud.Region != "", Path: "cloud.region", Value: c.Cloud.Region, Fix: "use the region of the VPC, such as cn-hangzhou"},
	}
	for i, id := range c.FormerOwnerIDs {
		_, err := externaldns.ParseOwner(id)
		rules = append(rules, strict.Rule{
			OK: err == nil && id != c.OwnerID, Path: fmt.Sprintf("formerOwnerIDs[%d]", i), Value: id, Fix: "use an ownerID that this cluster had before",
		})
	}
	for i, domain := range c.Zones.Domains {
		rules = append(rules, strict.Rule{
			OK: strings.Trim(domain, ".") != "", Path: fmt.Sprintf("zones.domains[%d]", i), Value: domain, Fix: "use a domain such as corp.example.com",
		})
	}
	return errors.Join(strict.Check(slices.Concat(rules, c.Cloud.check(), c.Guard.check(), c.checkLease())), c.Names.check())
}

func publishPolicies() []string {
	return []string{string(externaldns.Sync), string(externaldns.UpsertOnly), string(externaldns.CreateOnly)}
}

func (c guardConfig) check() []strict.Rule {
	return []strict.Rule{
		atLeast("guard.floor", c.Floor, 1),
		{OK: c.Percent >= 1 && c.Percent <= 100, Path: "guard.percent", Value: c.Percent, Fix: "use a number from 1 to 100"},
		{OK: c.Window > 0, Path: "guard.window", Value: time.Duration(c.Window), Fix: "use a duration above 0s"},
		notNegative("guard.grace", c.Grace),
		atLeast("guard.deletesPerMinute", c.DeletesPerMinute, 1),
	}
}

func (c publisherConfig) checkLease() []strict.Rule {
	l := c.LeaderElection
	return []strict.Rule{
		{OK: !l.Enabled || c.Manifests == "", Path: "leaderElection.enabled", Value: l.Enabled, Fix: "a Lease is in a Kubernetes API, and objects come from manifests: use false"},
		{OK: l.Namespace != "", Path: "leaderElection.namespace", Value: l.Namespace, Fix: "use the syncer's own namespace"},
		{OK: l.Name != "", Path: "leaderElection.name", Value: l.Name, Fix: "use a name such as nearpath-externaldns"},
	}
}

// check has the rules themselves judge; they name the keys as they are below names.
func (c namesConfig) check() error {
	_, err := externaldns.NewWants(c.rules())
	if err == nil {
		return nil
	}
	var errs []error
	for line := range strings.Lines(errors.Unwrap(err).Error()) {
		errs = append(errs, errors.New("names."+strings.TrimSpace(line)))
	}
	return errors.Join(errs...)
}

func (c namesConfig) rules() externaldns.Rules {
	r := externaldns.Rules{
		Templates: c.Templates, Combine: c.Combine, Namespaces: c.Namespaces, ExcludeNamespaces: c.ExcludeNamespaces,
		Labels: c.Labels, ExcludeLabels: c.ExcludeLabels, Domains: c.Domains, ExcludeDomains: c.ExcludeDomains,
		IngressClasses: c.IngressClasses, TTL: c.TTL, PublishInternal: c.PublishInternal, PTR: c.PTR, Access: c.Access,
	}
	for _, s := range c.Sources {
		r.Sources = append(r.Sources, externaldns.Source(s))
	}
	return r
}

// syncer is what the configuration says of the zones' side.
func (c publisherConfig) syncer() externaldns.Config {
	policy := externaldns.Policy{Owner: externaldns.Owner(c.OwnerID), Mode: externaldns.Mode(c.Policy), Claim: c.Claim, Join: c.Join}
	for _, id := range c.FormerOwnerIDs {
		policy.Former = append(policy.Former, externaldns.Owner(id))
	}
	return externaldns.Config{
		Policy: policy,
		Scope:  externaldns.Scope{ZoneIDs: c.Zones.IDs, VPCID: c.Zones.VPC},
		Limits: externaldns.Limits{
			Floor: c.Guard.Floor, Percent: c.Guard.Percent, Window: time.Duration(c.Guard.Window), Grace: time.Duration(c.Guard.Grace),
			DeletesPerMinute: c.Guard.DeletesPerMinute,
		},
		DryRun: c.DryRun, Poll: time.Duration(c.HintInterval), Audit: time.Duration(c.AuditInterval),
	}
}
