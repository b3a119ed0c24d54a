package main

import (
	"context"
	"slices"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/autopath"
	autopathplugin "github.com/nearpath/nearpath/plugins/autopath"
)

// buildScopes makes what knows how pods search, for the node's DNS and for the kernel.
func (a *agent) buildScopes(context.Context) error {
	last, err := a.datapath.Pods.LastScope()
	if err != nil {
		return err
	}
	// What is kept of searches was true of the names that the agent before knew, under its numbers.
	if err := a.datapath.Answers.DropScoped(); err != nil {
		return err
	}
	a.scopes = newDNSScopes(dnsScopesConfig{
		Domain: a.cfg.ClusterDomain, Host: func() []string { return searchOf(resolvConf, a.cfg.ClusterDomain) },
		Pod:   podFinder{store: a.store, manifests: a.cfg.Manifests != ""}.known,
		Files: sandboxFiles(), Kernel: a.datapath.Pods.SetScope, Ended: a.dropScope, Log: a.log, Last: last,
	})
	autopathplugin.Provide(autopathplugin.Node{Scopes: a.scopes, Left: a.scopeLeft})
	a.tasks = append(a.tasks, a.scopes)
	return nil
}

// dropScope forgets what is kept under a number that no pod has any more.
func (a *agent) dropScope(id uint32) {
	a.external.DropScoped(func(scope uint32, _ string) bool { return scope == id })
}

// scopeLeft forgets answers to searches that begin with names which these pods now ask for as they are.
func (a *agent) scopeLeft(scope autopath.Scope, names []string) {
	if id := a.scopes.ScopeID(scope); id != 0 {
		a.external.DropNames(id, names)
	}
}

// namesChanged forgets the searches that may end elsewhere now that these Services have other names or answers, nil for any
// Service, once the node's DNS answers so.
func (a *agent) namesChanged(names []string) {
	autopathplugin.Forget()
	match := func(uint32, string) bool { return true }
	if names != nil {
		match = a.scopes.passing(names)
	}
	a.external.DropScoped(match)
}

// searchOf are the domains that the node's resolv.conf searches. The agent's own may be that of a pod.
func searchOf(path, domain string) []string {
	text, err := readResolvConf(path)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(autopath.ParseResolvConf(text).Search, func(d string) bool {
		return dns.IsSubDomain(dns.Fqdn(domain), dns.Fqdn(d))
	})
}
