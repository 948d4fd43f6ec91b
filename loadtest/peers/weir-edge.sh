#!/bin/sh
# Weir's worker as a plain reverse proxy, for the side-by-side benchmark: everything goes to UPSTREAM.
#
#   peers.py --with "weir=loadtest/peers/weir-edge.sh target/dist/weir edge --static"
#
# The arguments are the command; the file with the objects is added to it. Reads HTTP_PORT, HTTPS_PORT, UPSTREAM
# (host:port), CERT and KEY (PEM files) from its environment.
set -eu
file=$(mktemp "${TMPDIR:-/tmp}/weir-edge.XXXXXX")
cat >"$file" <<YAML
apiVersion: weir.dev/v1
kind: Pool
metadata: {name: default}
spec:
  listen:
  - {port: 80, bind: "127.0.0.1:$HTTP_PORT", protocol: HTTP}
  - {port: 443, bind: "127.0.0.1:$HTTPS_PORT", protocol: HTTPS}
  drainDeadline: 1s
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata: {name: cert}
data:
  tls.crt: $(base64 -w0 <"$CERT")
  tls.key: $(base64 -w0 <"$KEY")
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gateway}
spec:
  gatewayClassName: weir
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - name: https
    port: 443
    protocol: HTTPS
    tls: {certificateRefs: [{name: cert}]}
---
apiVersion: weir.dev/v1
kind: Backend
metadata: {name: upstream}
spec:
  endpoints: [{address: "$UPSTREAM"}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all}
spec:
  parentRefs: [{name: gateway}]
  rules:
  - backendRefs: [{group: weir.dev, kind: Backend, name: upstream}]
YAML
# Open, but in no directory any more: whoever is killed leaves nothing behind. (A worker that is told to read it again cannot.)
exec 3<"$file"
rm "$file"
exec "$@" /dev/fd/3
