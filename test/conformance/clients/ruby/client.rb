# Lists a bucket twice with what the default chain of the AWS SDK for Ruby finds, and says who it was.
start = Process.clock_gettime(Process::CLOCK_MONOTONIC)
require "aws-sdk-s3"

wait = ENV.fetch("CONFORMANCE_WAIT", "0").to_i
# This SDK knows no proxy variables by itself, for services: the container has no other way to the endpoint.
options = { endpoint: ENV.fetch("AWS_ENDPOINT_URL"), http_proxy: ENV["HTTP_PROXY"] }
s3 = nil
(1..2).each do |n|
  begin
    s3 ||= Aws::S3::Client.new(force_path_style: true, **options)
    s3.config.credentials&.credentials or raise "unable to sign request without credentials set"
    ms = ((Process.clock_gettime(Process::CLOCK_MONOTONIC) - start) * 1000).round
    key = s3.list_objects_v2(bucket: ENV.fetch("CONFORMANCE_BUCKET")).contents.first.key
    arn = Aws::STS::Client.new(credentials: s3.config.credentials, **options).get_caller_identity.arn
    puts "round=#{n} ms=#{ms} sdk=aws-sdk-ruby/#{Aws::CORE_GEM_VERSION} arn=#{arn} key=#{key}"
  rescue StandardError => e
    puts "round=#{n} error=#{"#{e.class}: #{e.message}".split.join(" ")}"
  end
  $stdout.flush
  if n == 1
    break if wait.zero?
    sleep wait
  end
end
