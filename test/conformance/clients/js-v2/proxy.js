// An http.Agent that sends requests to the proxy of HTTP_PROXY, as RFC 9112 §3.2.2 wants them there.
const { Agent } = require("node:http");

exports.ProxyAgent = class extends Agent {
  addRequest(request, options) {
    const { hostname: host, port } = new URL(process.env.HTTP_PROXY);
    request.path = `http://${request.getHeader("host")}${request.path}`;
    super.addRequest(request, { ...options, host, port });
  }
};
